//! Frames as they are shown, and packets as they are parsed.

use std::net::IpAddr;

use mailflow_common::Reason;

/// A frame as a hook is shown it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The bytes that can be read.
    pub bytes: &'a [u8],
    /// Length of the whole frame.
    pub length: usize,
    /// What it begins with.
    pub link: Link,
    /// Tag control information that was taken out of the frame.
    pub tag: Option<u16>,
    /// Segmentation facts.
    pub merged: Merged,
    /// Whether the machine received it, at egress, rather than made it.
    pub forwarded: bool,
}

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// The network layer's header, of this ethertype.
    Ip(u16),
}

/// Segmentation facts of a buffer; all zero where it is one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Payload bytes of a segment.
    pub size: u32,
    /// Segments; 0 where that was not said.
    pub segments: u32,
}

/// A TCP or UDP packet, or a fragment of one.
#[derive(Clone, Debug)]
pub struct Packet {
    /// VLAN tags, outer first, without priority tags.
    pub zone: Vec<u16>,
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// 6 or 17; of a fragment whatever its header says.
    pub protocol: u8,
    /// IP total length.
    pub length: u64,
    /// IP header with options or extension headers.
    pub ip_header: u64,
    /// Which packet it is a fragment of.
    pub fragment: Option<FragmentOf>,
    /// Ports and what follows; `None` for a fragment that is not the first.
    pub ports: Option<Ports>,
    /// Of a fragment: where it lies in what was cut, and what it tells of the headers there.
    pub piece: Piece,
    /// Names of the ways it went through the parser.
    pub path: Vec<&'static str>,
}

/// Where a fragment lies in what was cut: all behind the IPv4 header, or behind IPv6's fragment header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub begin: u64,
    /// Where the headers end, which may be in a later fragment.
    pub headers: Headers,
}

/// Where the headers of a packet end that came in fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Headers {
    /// This fragment does not tell.
    #[default]
    Unknown,
    /// There, or behind it: the first fragment ends before TCP's data offset.
    AtLeast(u64),
    /// There.
    At(u64),
}

/// What the fragments of one packet share (RFC 791, 3.2; RFC 8200, 4.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FragmentOf {
    /// VLAN tags.
    pub zone: Vec<u16>,
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Identification.
    pub identification: [u8; 4],
    /// Protocol (RFC 8200: next header) of the fragment.
    pub protocol: u8,
}

/// What a packet's transport layer says.
#[derive(Clone, Debug)]
pub struct Ports {
    /// The sender's.
    pub source: u16,
    /// The receiver's.
    pub destination: u16,
    /// The rest, or why there is none.
    pub transport: Result<Transport, Reason>,
}

/// A transport header that is all there.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Its length.
    pub header: u64,
    /// TCP's sequence number and flags.
    pub tcp: Option<(u32, u8)>,
    /// Whether TCP's options ask to join a connection, or agree to that (RFC 8684, 3.2).
    pub joins: bool,
    /// Payload length by the headers.
    pub payload: u64,
    /// Where the payload begins in the frame.
    pub offset: usize,
}
