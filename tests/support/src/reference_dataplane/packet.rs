//! Input frames and parsed packets.

use std::net::IpAddr;

use mailflow_common::Reason;

/// Frame as a hook sees it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Readable bytes.
    pub bytes: &'a [u8],
    /// Length of the whole frame.
    pub length: usize,
    /// First header.
    pub link: Link,
    /// Tag control information that the kernel moved out of the frame.
    pub tag: Option<u16>,
    /// Segmentation metadata.
    pub merged: Merged,
    /// Egress: the machine forwards the frame instead of sending it itself.
    pub forwarded: bool,
}

/// First header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet header.
    Ethernet,
    /// Network layer header with this ethertype.
    Ip(u16),
}

/// Segmentation metadata of a buffer; all zero for a single packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Payload bytes of a segment.
    pub size: u32,
    /// Number of segments; 0 if unknown.
    pub segments: u32,
}

/// TCP or UDP packet, or a fragment of one.
#[derive(Clone, Debug)]
pub struct Packet {
    /// VLAN tags, outer first, without priority tags.
    pub zone: Vec<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol: 6 or 17; for a fragment the value in its header.
    pub protocol: u8,
    /// IP total length.
    pub length: u64,
    /// Length of the IP header with options or extension headers.
    pub ip_header: u64,
    /// Identity of the fragmented packet.
    pub fragment: Option<FragmentOf>,
    /// Ports and transport header; `None` for a fragment that is not the first.
    pub ports: Option<Ports>,
    /// Position of a fragment, and where it says that the headers end.
    pub piece: Piece,
    /// Names of the code paths in the parser.
    pub path: Vec<&'static str>,
}

/// Position of a fragment in the fragmentable part: after the IPv4 header, or after IPv6's fragment header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Offset of the fragment.
    pub begin: u64,
    /// End of the headers, which may be in a later fragment.
    pub headers: Headers,
}

/// End of the headers of a fragmented packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Headers {
    /// Not contained in this fragment.
    #[default]
    Unknown,
    /// At or after this offset: the first fragment ends before TCP's data offset.
    AtLeast(u64),
    /// At this offset.
    At(u64),
}

/// Identity of a fragmented packet (RFC 791, 3.2; RFC 8200, 4.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FragmentOf {
    /// VLAN tags.
    pub zone: Vec<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Identification.
    pub identification: [u8; 4],
    /// Protocol (RFC 8200: next header) of the fragment.
    pub protocol: u8,
}

/// Transport layer of a packet.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Transport header, or the reason why it is missing.
    pub transport: Result<Transport, Reason>,
}

/// Complete transport header.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Length of the header.
    pub header: u64,
    /// TCP's sequence number and flags.
    pub tcp: Option<(u32, u8)>,
    /// MP_JOIN option: a SYN asks to join a connection, or a SYN-ACK agrees (RFC 8684, 3.2).
    pub joins: bool,
    /// Payload length by the headers.
    pub payload: u64,
    /// Offset of the payload in the frame.
    pub offset: usize,
}
