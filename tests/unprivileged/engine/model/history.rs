//! Histories: connections as lists of packets, and the flows that a kernel would show.

use mailflow_common::{App, Facts, FlowKey, first_payload};
use mailflow_engine::{
    flow::{DirectionStats, Flow, RecordReason},
    settings::Settings,
    time::Time,
};

use super::{Nanos, nanos};

/// Packet of a history.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Time of the packet.
    pub at: Nanos,
    /// Direction from client to server.
    pub up: bool,
    /// IP bytes.
    pub bytes: u64,
    /// Payload bytes.
    pub payload: u64,
    /// Special property of the packet.
    pub mark: Mark,
}

/// Effect of a packet on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// No effect.
    Plain,
    /// SYN, or SYN-ACK from the server.
    Syn,
    /// FIN.
    Fin,
    /// RST.
    Reset,
    /// First payload, which identifies the application.
    Speaks,
}

/// Application protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// SMTP.
    Smtp,
    /// TLS from the first byte.
    Tls,
    /// IMAP.
    Imap,
    /// Other protocol.
    Http,
}

/// Connection of a history: its packets in order.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Flow key, unique in the history.
    pub key: FlowKey,
    /// Application protocol.
    pub talk: Talk,
    /// Packets, at least one.
    pub packets: Vec<Packet>,
}

impl Connection {
    /// Returns the key and the start, which distinguish connections of one 5-tuple.
    pub fn which(&self) -> (FlowKey, Nanos) {
        (self.key, self.packets.first().map_or(0, |first| first.at))
    }

    /// Returns the flow in the kernel's table at `now`.
    pub fn seen(&self, now: Nanos) -> Option<Flow> {
        let passed: Vec<&Packet> = self.packets.iter().filter(|packet| packet.at <= now).collect();
        let first = passed.first()?;
        let has = |up: bool, mark: Mark| u8::from(passed.iter().any(|p| p.up == up && p.mark == mark));
        let speaks = |up| if has(up, Mark::Speaks) == 0 { first_payload::NONE } else { self.opening(up) };
        Some(Flow {
            key: self.key,
            up: direction(&passed, true),
            down: direction(&passed, false),
            first: Time::from_nanos(first.at),
            messages: passed.len() as u32 / 8,
            rejected: 0,
            mac: None,
            interface: None,
            facts: Facts {
                syn: has(true, Mark::Syn),
                syn_ack: has(false, Mark::Syn),
                fin_up: has(true, Mark::Fin),
                fin_down: has(false, Mark::Fin),
                reset: has(true, Mark::Reset) | has(false, Mark::Reset),
                seen: u8::from(passed.iter().any(|packet| !packet.up)),
                first_payload_up: speaks(true),
                first_payload_down: speaks(false),
                ..Facts::default()
            },
        })
    }

    fn opening(&self, up: bool) -> u8 {
        match self.talk {
            // An IMAP client's first command begins with an arbitrary tag, which identifies nothing.
            Talk::Imap if up => first_payload::UNREAD,
            Talk::Smtp => first_payload::SMTP,
            Talk::Tls => first_payload::TLS,
            Talk::Imap => first_payload::IMAP,
            Talk::Http => first_payload::OTHER,
        }
    }

    fn marked(&self, mark: Mark) -> [bool; 2] {
        [true, false].map(|up| self.packets.iter().any(|packet| packet.up == up && packet.mark == mark))
    }

    /// Returns the application, given the whole history.
    pub(super) fn app(&self, flow: &Flow) -> App {
        let spoken = flow.facts.first_payload_up != first_payload::NONE
            || flow.facts.first_payload_down != first_payload::NONE;
        match self.talk {
            _ if !spoken => App::Unseen,
            Talk::Smtp => App::Smtp,
            Talk::Imap if flow.facts.first_payload_down == first_payload::NONE => App::Unseen,
            Talk::Imap => App::Imap,
            Talk::Tls if [143, 993].contains(&self.key.server_port) => App::Imaps,
            Talk::Tls => App::Smtps,
            Talk::Http if self.marked(Mark::Syn)[0] => App::Other,
            Talk::Http => App::Unseen,
        }
    }

    /// Returns true if no packet of the flow can have been missed.
    pub(super) fn complete(&self, flow: &Flow) -> bool {
        self.marked(Mark::Syn)[0] && (flow.down.packets == 0 || self.marked(Mark::Syn)[1])
    }

    /// Returns the end and its reason.
    pub(super) fn end(&self, settings: &Settings) -> (Nanos, RecordReason) {
        let timeouts = &settings.timeouts;
        let last = self.packets.iter().map(|packet| packet.at).max().unwrap_or_default();
        let mut ends = vec![(last + nanos(timeouts.idle), RecordReason::Idle)];
        if self.marked(Mark::Fin) == [true, true] || self.marked(Mark::Reset).contains(&true) {
            ends.push((last + nanos(timeouts.closed), RecordReason::Closed));
        }
        if self.marked(Mark::Syn)[0] && self.packets.iter().all(|packet| packet.up) {
            ends.push((last + nanos(timeouts.unanswered), RecordReason::Idle));
        }
        let first = ends.iter().map(|end| end.0).min().unwrap_or(last);
        let closed = ends.iter().find(|end| **end == (first, RecordReason::Closed));
        closed.copied().unwrap_or((first, RecordReason::Idle))
    }
}

fn direction(passed: &[&Packet], up: bool) -> DirectionStats {
    let own: Vec<&&Packet> = passed.iter().filter(|packet| packet.up == up).collect();
    let data: Vec<&&&Packet> = own.iter().filter(|packet| packet.payload > 0).collect();
    DirectionStats {
        packets: own.len() as u64,
        bytes: own.iter().map(|packet| packet.bytes).sum(),
        payload: own.iter().map(|packet| packet.payload).sum(),
        data_packets: data.len() as u64,
        data_bytes: data.iter().map(|packet| packet.bytes).sum(),
        last: own.last().map(|packet| Time::from_nanos(packet.at)),
    }
}
