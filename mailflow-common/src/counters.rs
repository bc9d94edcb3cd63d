//! What the kernel keeps of one flow.

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

/// What was seen of a flow, one byte a fact: the kernel stores the constant 1, which needs no
/// atomic OR (Linux 5.12).
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
    /// Packets of either side, and what its SYN asked for; bits of [`answered`].
    pub answered: u8,
    /// What the client's first bytes were: one of [`crate::opening`]. Valid from the first byte on.
    pub opening_up: u8,
    /// What the server's first bytes were: one of [`crate::opening`].
    pub opening_down: u8,
    /// Change of the session to TLS: one of [`crate::upgrade`]. The high bits are [`crate::turn`]'s.
    pub upgrade: u8,
    /// Payload packets of either direction that were looked into; stops where looking stops. Its high bits are
    /// one of [`side`].
    pub looked: u8,
}

/// What [`Facts::answered`] says.
pub mod answered {
    /// The server has sent a packet.
    pub const YES: u8 = 1;
    /// The client has.
    pub const ASKED: u8 = 2;
    /// One direction comes in another VLAN zone than the other, and both are counted here.
    pub const ACROSS: u8 = 4;
    /// The client's SYN asks to join the connection to another one (MP_JOIN; RFC 8684, 3.2).
    pub const JOINS: u8 = 8;
    /// The server's SYN-ACK agreed.
    pub const JOINED: u8 = 16;
}

/// Which hook counts which direction of a flow whose ports are both watched: on its way between two watched
/// networks each of its packets passes two hooks that could.
pub mod side {
    /// The hook for packets to servers counts what goes up, the one for packets from servers what comes down.
    pub const STRAIGHT: u8 = 0x40;
    /// The other way round: the client is beyond the interface.
    pub const TURNED: u8 = 0x80;
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
        answered: 0,
        opening_up: 0,
        opening_down: 0,
        upgrade: 0,
        looked: 0,
    };

    /// FIN both ways or RST.
    #[inline(always)]
    pub const fn closed(&self) -> bool {
        (self.fin_up != 0 && self.fin_down != 0) || self.reset != 0
    }

    /// Returns true for a subflow of a multipath connection (MPTCP): neither an attempt nor a session of its own.
    ///
    /// The server's answer to MP_JOIN shows it. A server that does not know the option ignores it, and the connection
    /// is an ordinary one: then a mail protocol's first bytes, or bytes that cannot be told, speak against it.
    pub const fn subflow(&self) -> bool {
        use crate::opening::{NONE, OTHER, SMTP, TLS};
        let (asked, agreed) = (self.answered & answered::JOINS != 0, self.answered & answered::JOINED != 0);
        let amid = match self.opening_down {
            NONE => matches!(self.opening_up, NONE | OTHER),
            OTHER => !matches!(self.opening_up, TLS | SMTP),
            _ => false,
        };
        asked && (agreed || amid)
    }

    /// A SYN to which nothing came back.
    #[inline(always)]
    pub const fn unanswered(&self) -> bool {
        self.syn != 0 && self.answered & answered::YES == 0
    }
}

/// The counters of a flow.
///
/// When a tuple is used again the sums go on from where they are, and a copy of them as they were is
/// put aside under the [`crate::RetiredKey`]: so no packet is lost between two flows, whatever other
/// CPUs do meanwhile.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    /// TCP and application facts.
    pub facts: Facts,
    /// The client's MAC address; zero where there is none.
    pub mac: [u8; 6],
    /// Messages the server seems to have accepted; works inside TLS.
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
    /// The kernel's number of the interface at which the flow's first packet was counted; 0 where it is not known.
    pub interface: u32,
    /// Messages the server refused after it had taken them, by its reply codes: only of sessions in the clear.
    pub rejected: u32,
}

/// How long a tuple is silent before the next packet begins a new flow, in ticks.
///
/// The engine ends flows by the same times: so what a flow is follows from its packets alone, not
/// from when somebody looked.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silences {
    /// After FIN both ways or RST.
    pub closed: u32,
    /// While a SYN is unanswered.
    pub unanswered: u32,
    /// Otherwise.
    pub idle: u32,
    /// The least of them.
    pub least: u32,
}

impl Silences {
    /// Never: longer than a word of ticks can tell.
    pub const NEVER: Self = Self {
        closed: i32::MAX as u32,
        unanswered: i32::MAX as u32,
        idle: i32::MAX as u32,
        least: i32::MAX as u32,
    };
}

const _: () = assert!(size_of::<DirectionCounters>() == 40);
const _: () = assert!(size_of::<FlowCounters>() == 128);
