//! One flow.

use std::net::IpAddr;

pub use mailflow_common::Facts;
use mailflow_common::seen;

use super::estimate::Dialogue;

/// What tells flows apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// VLAN tags, outer first.
    pub zone: Vec<u16>,
    /// 6 or 17.
    pub protocol: u8,
    /// Address and port of the client.
    pub client: (IpAddr, u16),
    /// Of the server.
    pub server: (IpAddr, u16),
}

impl Tuple {
    /// The same with the other side as client.
    pub fn reversed(&self) -> Self {
        Self { client: self.server, server: self.client, ..self.clone() }
    }
}

/// One direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Packets on the wire.
    pub packets: u64,
    /// Their IP bytes.
    pub bytes: u64,
    /// Their payload.
    pub payload: u64,
    /// Those with payload.
    pub data_packets: u64,
    /// IP bytes of those.
    pub data_bytes: u64,
    /// Time of the last one.
    pub last: Option<u64>,
}

/// One flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its ends.
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
    /// Whether one direction comes in another VLAN zone.
    pub(super) across: bool,
    /// Where both ports are watched: whether the hook for packets to servers counts what goes up.
    pub(super) straight: Option<bool>,
}

/// How long a flow may be silent: closed, unanswered, otherwise.
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

    /// Whether the flow was over before a packet that comes `now`.
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

    /// Whether a SYN with this number is another connection's: it is not this one's number. A flow that was met
    /// without its SYN takes one, if it has not got further than a handshake (a FIN, a RST, payload).
    pub(super) fn foreign(&self, number: u32) -> bool {
        let facts = &self.facts;
        let further = facts.fin_up == 1 || facts.fin_down == 1 || facts.reset == 1 || facts.inspected != 0;
        self.numbers[0].map_or(further, |own| own != number)
    }

    /// Whether a SYN of the server may be this flow's: its client has sent one, nobody has closed it, and it began within
    /// the time in which a SYN is sent again.
    pub(super) fn opening(&self, now: u64, silences: &Silences) -> bool {
        let facts = &self.facts;
        now.saturating_sub(self.first) <= silences.unanswered
            && facts.syn == 1
            && facts.fin_up == 0
            && facts.fin_down == 0
            && facts.reset == 0
    }

    /// Notes TCP's flags.
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
            // Whether the server acknowledges the client's SYN or sends one of its own.
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

    /// Counts packets.
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
