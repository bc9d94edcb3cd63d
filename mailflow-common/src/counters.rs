//! Counters of a flow.

/// One direction of a flow. All but `last` only ever grow.
///
/// Packets are on the wire: a merged (GRO, TSO) buffer counts as the segments it stands for. Bytes are
/// IP total lengths, summed over those packets (IPFIX octetDeltaCount). Those with payload and those
/// without are kept apart, so that a packet is added to as few words as can be: each addition is atomic,
/// which is what counting costs most.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionCounters {
    /// Packets that carried payload.
    pub data_packets: u64,
    /// IP bytes of those.
    pub data_bytes: u64,
    /// TCP or UDP payload bytes.
    pub payload: u64,
    /// IP bytes of packets without payload.
    pub bare_bytes: u64,
    /// Packets without payload; differences are right up to 2^32.
    pub bare_packets: u32,
    /// Low word of the kernel's jiffies at the last packet.
    pub last: u32,
}

impl DirectionCounters {
    /// All packets.
    #[inline(always)]
    pub const fn packets(&self) -> u64 {
        self.data_packets + self.bare_packets as u64
    }

    /// All IP bytes.
    #[inline(always)]
    pub const fn bytes(&self) -> u64 {
        self.data_bytes + self.bare_bytes
    }
}

/// Facts about a flow, one byte each: the kernel stores the constant 1, which needs no atomic OR (Linux
/// 5.12).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// A SYN without ACK.
    pub syn: u8,
    /// A SYN with ACK.
    pub syn_ack: u8,
    /// The client's FIN.
    pub fin_up: u8,
    /// The server's FIN.
    pub fin_down: u8,
    /// A RST of either side.
    pub reset: u8,
    /// Directions seen, and MPTCP options of the handshake: bits of [`seen`].
    pub seen: u8,
    /// Class of the first bytes of the client: one of [`crate::first_payload`]. Valid from the first byte on.
    pub first_payload_up: u8,
    /// Class of the first bytes of the server: one of [`crate::first_payload`].
    pub first_payload_down: u8,
    /// Change of the session to TLS: one of [`crate::upgrade`]. The high bits are [`crate::turn`]'s.
    pub upgrade: u8,
    /// Number of payload packets that were inspected, up to a limit. The high bits are one of
    /// [`hook_orientation`].
    pub inspected: u8,
}

/// Bits of [`Facts::seen`].
pub mod seen {
    /// A packet of the server.
    pub const DOWN: u8 = 1;
    /// A packet of the client.
    pub const UP: u8 = 2;
    /// A packet in another VLAN zone than the flow began in.
    pub const OTHER_VLAN: u8 = 4;
    /// The client's SYN asks to join the connection to another one (MP_JOIN; RFC 8684, 3.2).
    pub const MPTCP_JOIN: u8 = 8;
    /// The server's SYN-ACK agreed.
    pub const MPTCP_JOINED: u8 = 16;
}

/// Orientation of a flow whose ports are both watched. Between two watched interfaces each of its packets
/// passes two hooks, one of which counts it.
pub mod hook_orientation {
    /// The hook for packets to servers counts client to server, the hook for packets from servers counts
    /// server to client.
    pub const NORMAL: u8 = 0x40;
    /// Reversed: the client is beyond the interface.
    pub const SWAPPED: u8 = 0x80;
    /// Both bits; neither is set where only one port is watched, or one hook counts both directions.
    pub const BITS: u8 = 0xc0;
}

impl Facts {
    /// Nothing seen.
    pub const NONE: Self = Self {
        syn: 0,
        syn_ack: 0,
        fin_up: 0,
        fin_down: 0,
        reset: 0,
        seen: 0,
        first_payload_up: 0,
        first_payload_down: 0,
        upgrade: 0,
        inspected: 0,
    };

    /// FIN both ways or RST.
    #[inline(always)]
    pub const fn closed(&self) -> bool {
        (self.fin_up != 0 && self.fin_down != 0) || self.reset != 0
    }

    /// Returns true for a subflow of a multipath connection (MPTCP): neither an attempt nor a session of its own.
    ///
    /// The server's answer to MP_JOIN shows it. A server that does not know the option ignores it, and the connection
    /// is an ordinary one: then a mail protocol's first bytes, or unreadable bytes, are evidence against a subflow.
    pub const fn subflow(&self) -> bool {
        use crate::first_payload::{NONE, OTHER, SMTP, TLS};
        let (asked, agreed) = (self.seen & seen::MPTCP_JOIN != 0, self.seen & seen::MPTCP_JOINED != 0);
        let amid = match self.first_payload_down {
            NONE => matches!(self.first_payload_up, NONE | OTHER),
            OTHER => !matches!(self.first_payload_up, TLS | SMTP),
            _ => false,
        };
        asked && (agreed || amid)
    }

    /// Returns true if the SYN has no answer.
    #[inline(always)]
    pub const fn unanswered(&self) -> bool {
        self.syn != 0 && self.seen & seen::DOWN == 0
    }
}

/// Counters of a flow.
///
/// If the 5-tuple is reused the counters continue, and a copy of their values is stored under the
/// [`crate::SupersededKey`]. So no packet is lost between two flows, whatever other CPUs do at the same time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    /// TCP and application facts.
    pub facts: Facts,
    /// MAC address of the client; zero if there is none.
    pub mac: [u8; 6],
    /// Messages that the server accepted, by an estimate that works inside TLS.
    pub messages: u32,
    /// Low word of the client's payload bytes at which its turn began: when the server last sent payload, or
    /// after `DATA`. In the copy of a finished flow: low word of the kernel's jiffies when the next one began.
    pub mark: u32,
    /// Client to server.
    pub up: DirectionCounters,
    /// Server to client.
    pub down: DirectionCounters,
    /// The kernel's jiffies at the first packet.
    pub first: u64,
    /// Sequence number of the client's SYN (RFC 9293, 3.4).
    pub isn_up: u32,
    /// Sequence number of the server's SYN-ACK.
    pub isn_down: u32,
    /// Index of the interface that counted the first packet; 0 if unknown.
    pub interface: u32,
    /// Messages that the server rejected after their body, by its reply codes. Only for sessions in the
    /// clear.
    pub rejected: u32,
}

/// Idle timeouts, in ticks: the next packet after one of them begins a new flow.
///
/// The engine ends flows by the same timeouts, so a flow follows from its packets alone, not from the time of
/// a poll.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTimeoutTicks {
    /// After FIN both ways or RST.
    pub closed: u32,
    /// While the SYN has no answer.
    pub unanswered: u32,
    /// Otherwise.
    pub idle: u32,
    /// The least of them.
    pub least: u32,
}

impl IdleTimeoutTicks {
    /// Never: longer than the ticks of a word.
    pub const NEVER: Self = Self {
        closed: i32::MAX as u32,
        unanswered: i32::MAX as u32,
        idle: i32::MAX as u32,
        least: i32::MAX as u32,
    };
}

const _: () = assert!(size_of::<DirectionCounters>() == 40);
const _: () = assert!(size_of::<FlowCounters>() == 128);
