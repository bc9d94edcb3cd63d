//! What the kernel keeps of one flow.

/// One direction of a flow. All but `last` only ever grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionCounters {
    /// Packets on the wire: a merged (GRO, TSO) buffer counts as the segments it stands for.
    pub packets: u64,
    /// IP total length, summed over those packets (IPFIX octetDeltaCount).
    pub bytes: u64,
    /// TCP or UDP payload bytes.
    pub payload: u64,
    /// IP bytes of the packets that carried payload.
    pub data_bytes: u64,
    /// Packets that carried payload.
    pub data_packets: u32,
    /// Low word of the kernel's jiffies at the last packet.
    pub last: u32,
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
    /// The first packet seen was neither SYN nor SYN-ACK.
    pub midstream: u8,
    /// What the client's first bytes were: one of [`crate::opening`]. Valid from the first byte on.
    pub opening_up: u8,
    /// What the server's first bytes were: one of [`crate::opening`].
    pub opening_down: u8,
    /// The client asked for TLS in the running session (STARTTLS, STLS).
    pub upgrade: u8,
    /// A TLS handshake record of the client followed that.
    pub upgraded: u8,
}

/// Value of the flow table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
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
    /// Messages the server seems to have accepted; works inside TLS.
    pub messages: u32,
    /// The client's payload bytes since the server last sent payload.
    pub pending: u32,
    /// The client's MAC address; zero where there is none.
    pub mac: [u8; 6],
    /// TCP and application facts.
    pub facts: Facts,
}

const _: () = assert!(size_of::<DirectionCounters>() == 40);
const _: () = assert!(size_of::<FlowCounters>() == 120, "the flow table's value size");
