//! Flow of the reference data plane.

use std::net::IpAddr;

pub use mailflow_common::Facts;
use mailflow_common::seen;

use super::estimate::Dialogue;

/// 5-tuple with VLAN zone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// VLAN tags, outer first.
    pub zone: Vec<u16>,
    /// Protocol: 6 or 17.
    pub protocol: u8,
    /// Address and port of the client.
    pub client: (IpAddr, u16),
    /// Address and port of the server.
    pub server: (IpAddr, u16),
}

impl Tuple {
    /// Returns the tuple with client and server swapped.
    pub fn reversed(&self) -> Self {
        Self { client: self.server, server: self.client, ..self.clone() }
    }
}

/// Counters of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Packets on the wire.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
    /// Payload bytes.
    pub payload: u64,
    /// Packets with payload.
    pub data_packets: u64,
    /// IP bytes of the packets with payload.
    pub data_bytes: u64,
    /// Time of the last packet.
    pub last: Option<u64>,
}

/// Flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Endpoints.
    pub tuple: Tuple,
    /// Client to server.
    pub up: Side,
    /// Server to client.
    pub down: Side,
    /// Time of the first packet.
    pub first: u64,
    /// The client's MAC address, if the first packet had an Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// Estimated messages.
    pub messages: u32,
    /// Messages refused by the code of the reply to their body.
    pub rejected: u32,
    /// TCP and application facts.
    pub facts: Facts,
    /// State of the message estimate.
    pub(super) dialogue: Dialogue,
    /// Sequence numbers of the SYN and of the SYN-ACK.
    pub(super) numbers: [Option<u32>; 2],
    /// One direction arrives in another VLAN zone.
    pub(super) across: bool,
    /// Hook orientation, if both ports are watched: true if the hook for packets to servers counts the
    /// direction up.
    pub(super) straight: Option<bool>,
}

/// Idle timeouts of closed, unanswered and other flows.
pub(super) struct Silences {
    pub(super) closed: u64,
    pub(super) unanswered: u64,
    pub(super) idle: u64,
}

impl Flow {
    pub(super) fn new(tuple: Tuple, first: u64, mac: Option<[u8; 6]>) -> Self {
        Self {
            tuple,
            up: Side::default(),
            down: Side::default(),
            first,
            mac,
            messages: 0,
            rejected: 0,
            facts: Facts::NONE,
            dialogue: Dialogue::default(),
            numbers: [None; 2],
            across: false,
            straight: None,
        }
    }

    /// Returns true if the flow's idle timeout expired before a packet at `now`.
    pub(super) fn silent(&self, now: u64, silences: &Silences) -> bool {
        let last = self.up.last.max(self.down.last).unwrap_or(self.first);
        let facts = &self.facts;
        let mut patience = silences.idle;
        if facts.syn == 1 && facts.seen & seen::DOWN == 0 {
            patience = patience.min(silences.unanswered);
        }
        if facts.reset == 1 || (facts.fin_up == 1 && facts.fin_down == 1) {
            patience = patience.min(silences.closed);
        }
        now - last >= patience
    }

    /// Returns true if a SYN with this number belongs to another connection, as the flow's SYN has another
    /// number. A flow without a SYN accepts one, unless it had a FIN, an RST or payload.
    pub(super) fn foreign(&self, number: u32) -> bool {
        let facts = &self.facts;
        let further = facts.fin_up == 1 || facts.fin_down == 1 || facts.reset == 1 || facts.inspected != 0;
        self.numbers[0].map_or(further, |own| own != number)
    }

    /// Returns true if the server's SYN may belong to this flow: the client has sent a SYN, no side has
    /// closed, and the flow is younger than the period of SYN retransmissions.
    pub(super) fn opening(&self, now: u64, silences: &Silences) -> bool {
        let facts = &self.facts;
        now.saturating_sub(self.first) <= silences.unanswered
            && facts.syn == 1
            && facts.fin_up == 0
            && facts.fin_down == 0
            && facts.reset == 0
    }

    /// Records TCP flags.
    pub(super) fn note(&mut self, (sequence, flags): (u32, u8), joins: bool, up: bool) {
        let has = |bit: u8| flags & bit != 0;
        match (has(0x02), has(0x10), up) {
            (true, false, true) => {
                self.facts.syn = 1;
                self.numbers[0] = Some(sequence);
                if joins {
                    self.facts.seen |= seen::MPTCP_JOIN;
                }
            }
            // With or without ACK: a SYN-ACK, or a simultaneous open.
            (true, _, false) => {
                self.facts.syn_ack = 1;
                self.numbers[1] = Some(sequence);
                if joins && self.facts.seen & seen::MPTCP_JOIN != 0 {
                    self.facts.seen |= seen::MPTCP_JOINED;
                }
            }
            _ => {}
        }
        if has(0x01) {
            *if up { &mut self.facts.fin_up } else { &mut self.facts.fin_down } = 1;
        }
        if has(0x04) {
            self.facts.reset = 1;
        }
    }

    /// Adds packets to the counters.
    pub(super) fn add(&mut self, up: bool, packets: u64, bytes: u64, payload: u64, now: u64) {
        let side = if up { &mut self.up } else { &mut self.down };
        side.packets += packets;
        side.bytes += bytes;
        side.payload += payload;
        if payload != 0 {
            side.data_packets += packets;
            side.data_bytes += bytes;
        }
        side.last = Some(now);
        if !up {
            self.facts.seen |= seen::DOWN;
        }
    }
}
