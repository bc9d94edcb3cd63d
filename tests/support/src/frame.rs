//! Builds frames byte by byte, from the protocol specifications.

use std::net::IpAddr;

/// TCP flag bits (RFC 9293, 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Acknowledge.
    pub const ACK: u8 = 0x10;
}

/// Builder of a frame. The defaults are those of an ordinary packet.
#[derive(Clone, Debug)]
pub struct FrameBuilder {
    /// Source and destination.
    pub ends: [(IpAddr, u16); 2],
    /// VLAN tags as (tag protocol, tag control information), outer first.
    pub tags: Vec<(u16, u16)>,
    /// Presence of an Ethernet header.
    pub ethernet: bool,
    /// IPv4 options; a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers as (kind, body without its first byte).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4's flags and fragment offset.
    pub fragment: u16,
    /// IPv4's identification.
    pub identification: u16,
    /// Transport header.
    pub transport: Transport,
    /// Payload.
    pub payload: Vec<u8>,
    /// IP total length (IPv6: payload length) to write instead of the right one.
    pub length: Option<u16>,
    /// Bytes after the packet, such as Ethernet padding.
    pub padding: usize,
}

/// Transport header.
#[derive(Clone, Debug)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Flag bits.
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// Options; a multiple of four bytes.
        options: Vec<u8>,
        /// Data offset to write instead of the right one.
        offset: Option<u8>,
    },
    /// UDP.
    Udp,
    /// Another protocol's number, without a header.
    Other(u8),
}

impl FrameBuilder {
    /// Creates a TCP segment between two endpoints, each given as `address:port` or `[address]:port`.
    ///
    /// # Panics
    /// An endpoint cannot be parsed.
    pub fn tcp(from: &str, to: &str, flags: u8) -> Self {
        let end = |text: &str| {
            let end: std::net::SocketAddr = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            (end.ip(), end.port())
        };
        Self {
            ends: [end(from), end(to)],
            tags: Vec::new(),
            ethernet: true,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0,
            identification: 1,
            transport: Transport::Tcp { flags, sequence: 1000, options: Vec::new(), offset: None },
            payload: Vec::new(),
            length: None,
            padding: 0,
        }
    }

    /// Makes the packet a UDP datagram.
    pub fn udp(mut self) -> Self {
        self.transport = Transport::Udp;
        self
    }

    /// Sets the payload.
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Sets the TCP sequence number.
    pub fn sequence(mut self, number: u32) -> Self {
        if let Transport::Tcp { sequence, .. } = &mut self.transport {
            *sequence = number;
        }
        self
    }

    /// Sets the TCP options.
    pub fn tcp_options(mut self, bytes: &[u8]) -> Self {
        if let Transport::Tcp { options, .. } = &mut self.transport {
            *options = bytes.to_vec();
        }
        self
    }

    /// Adds an inner VLAN tag.
    pub fn tag(mut self, protocol: u16, control: u16) -> Self {
        self.tags.push((protocol, control));
        self
    }

    /// Applies any other change.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Returns the packet's IP bytes, as a counter must count them.
    pub fn ip_bytes(&self) -> u64 {
        let bytes = self.build();
        let link = if self.ethernet { 14 + 4 * self.tags.len() } else { 0 };
        (bytes.len() - link - self.padding) as u64
    }

    /// Builds the frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let (kind, transport) = self.transport_bytes();
        let (ethertype, packet) = match (self.ends[0].0, self.ends[1].0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                (0x0800, self.v4(kind, &transport, from.octets(), to.octets()))
            }
            (from, to) => (0x86dd, self.v6(kind, &transport, &v6(from), &v6(to))),
        };
        let mut frame = Vec::new();
        if self.ethernet {
            frame.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
            for (protocol, control) in &self.tags {
                frame.extend(protocol.to_be_bytes());
                frame.extend(control.to_be_bytes());
            }
            frame.extend(u16::to_be_bytes(ethertype));
        }
        frame.extend(packet);
        frame.extend(std::iter::repeat_n(0, self.padding));
        frame
    }

    fn transport_bytes(&self) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        bytes.extend(self.ends[0].1.to_be_bytes());
        bytes.extend(self.ends[1].1.to_be_bytes());
        let kind = match &self.transport {
            Transport::Tcp { flags, sequence, options, offset } => {
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(0_u32.to_be_bytes());
                let words = offset.unwrap_or((5 + options.len() / 4) as u8);
                bytes.extend([words << 4, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(options);
                6
            }
            Transport::Udp => {
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                17
            }
            Transport::Other(kind) => {
                bytes.clear();
                *kind
            }
        };
        bytes.extend(&self.payload);
        (kind, bytes)
    }

    fn v4(&self, kind: u8, transport: &[u8], from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let length = self.length.unwrap_or((header + transport.len()) as u16);
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(length.to_be_bytes());
        packet.extend(self.identification.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, kind, 0, 0]);
        packet.extend(from);
        packet.extend(to);
        packet.extend(&self.options);
        packet.extend(transport);
        packet
    }

    fn v6(&self, kind: u8, transport: &[u8], from: &[u8; 16], to: &[u8; 16]) -> Vec<u8> {
        let mut body = Vec::new();
        let kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).chain([kind]).collect();
        for ((_, extension), next) in self.extensions.iter().zip(&kinds[1..]) {
            body.push(*next);
            body.extend(extension);
        }
        body.extend(transport);
        let length = self.length.unwrap_or(body.len() as u16);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([kinds[0], 64]);
        packet.extend(from);
        packet.extend(to);
        packet.extend(body);
        packet
    }
}

/// Returns the body of an eight-byte extension header: its length byte and padding (RFC 8200, 4.2).
pub fn short_extension() -> Vec<u8> {
    vec![0, 1, 4, 0, 0, 0, 0]
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Returns a packet of 1,500 bytes of payload in three fragments.
pub fn fragmented(from: &str, to: &str, identification: u16) -> Vec<FrameBuilder> {
    let v6 = from.starts_with('[');
    let cut = |position: u16, more: bool, payload: usize| {
        let mut frame = FrameBuilder::tcp(from, to, flag::ACK).payload(vec![b'x'; payload]);
        if position != 0 {
            // Later fragments have no TCP header, only payload with TCP's protocol number.
            frame.transport = Transport::Other(6);
        }
        if v6 {
            let word = (position | u16::from(more)).to_be_bytes();
            let name = identification.to_be_bytes();
            frame.extensions = vec![(44, vec![0, word[0], word[1], 0, 0, name[0], name[1]])];
        } else {
            frame.fragment = position >> 3 | if more { 0x2000 } else { 0 };
            frame.identification = identification;
        }
        frame
    };
    vec![cut(0, true, 580), cut(600, true, 600), cut(1200, false, 320)]
}

/// Splits a packet into fragments at the offsets `ends`, behind the IPv4 header or the fixed IPv6 header.
/// Each offset is a multiple of eight.
///
/// # Panics
/// An offset is behind the packet's end.
pub fn cut(packet: &FrameBuilder, ends: &[usize], identification: u16) -> Vec<FrameBuilder> {
    let v6 = packet.ends[0].0.is_ipv6();
    let bytes = packet.build();
    let link = if packet.ethernet { 14 + 4 * packet.tags.len() } else { 0 };
    let header = if v6 { 40 } else { 20 + packet.options.len() };
    let kind = bytes[link + if v6 { 6 } else { 9 }];
    let bytes = &bytes[link + header..bytes.len() - packet.padding];
    let begins = [&[0], ends].concat();
    let all = [ends, &[bytes.len()]].concat();
    let pieces = begins.iter().zip(all).map(|(begin, end)| {
        let (position, more) = (*begin as u16, end != bytes.len());
        let mut piece = packet.clone();
        piece.transport = Transport::Other(kind);
        piece.payload = bytes[*begin..end].to_vec();
        if v6 {
            let word = (position | u16::from(more)).to_be_bytes();
            let name = identification.to_be_bytes();
            piece.extensions = vec![(44, vec![0, word[0], word[1], 0, 0, name[0], name[1]])];
        } else {
            piece.fragment = position >> 3 | if more { 0x2000 } else { 0 };
            piece.identification = identification;
        }
        piece
    });
    pieces.collect()
}
