//! Frame as a list of layers, as a sender would build it.

use std::{net::IpAddr, ops::Range};

use fastrand::Rng;

use super::{
    choice::{Wanted, pick},
    pools::{self, Ends},
};

/// Type of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    Ethernet,
    Tag,
    Pppoe,
    Ip4,
    Ip6,
    Extension,
    Transport,
    Payload,
}

/// Layers of a frame, from the outside in.
#[derive(Clone, Debug, Default)]
pub(super) struct FrameSpec {
    pub(super) layers: Vec<(Layer, Vec<u8>)>,
}

impl FrameSpec {
    /// Creates a valid frame of any form.
    pub(super) fn any(rng: &mut Rng, ends: &Ends, wanted: &Wanted) -> Self {
        let mut layers = Vec::new();
        let ip = Self::packet(rng, ends, wanted);
        let mut ethertype: u16 = match ip[0].0 {
            Layer::Ip4 => 0x0800,
            _ => 0x86dd,
        };
        if wanted.ethernet {
            // IPv4, IPv6, and other types: ARP, MPLS, LLDP, an 802.3 length, encapsulated frames, tags.
            if rng.u8(..100) < 4 {
                ethertype = *pick(
                    rng,
                    &[0x0806, 0x8847, 0x8848, 0x88cc, 0x0100, 0x8903, 0x88e7, 0x8926, 0x893f, 0x894f],
                );
            }
            if rng.u8(..100) < 10 {
                layers.push((Layer::Pppoe, pppoe(rng, ethertype, &ip)));
                ethertype = 0x8864;
            }
            for _ in 0..*pick(rng, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3]) {
                let control = *pick(rng, &[7, 7, 7, 7, 0xe007, 0, 4095]);
                layers.insert(0, (Layer::Tag, [u16::to_be_bytes(control), ethertype.to_be_bytes()].concat()));
                ethertype = *pick(rng, &[0x8100, 0x8100, 0x88a8, 0x9100, 0x9200]);
            }
            let mut ethernet = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, rng.u8(1..4)];
            ethernet.extend(ethertype.to_be_bytes());
            layers.insert(0, (Layer::Ethernet, ethernet));
        }
        layers.extend(ip);
        Self { layers }
    }

    /// Creates the IP packet: fixed header, extension headers, transport header, payload.
    fn packet(rng: &mut Rng, ends: &Ends, wanted: &Wanted) -> Vec<(Layer, Vec<u8>)> {
        let piece = Piece::any(rng);
        let cut = match piece {
            Piece::First => {
                *pick(rng, &[None, None, Some(8), Some(12), Some(16), Some(24), Some(32), Some(40)])
            }
            _ => None,
        };
        let mut payload = pools::payload(rng, wanted.longest);
        let (mut protocol, mut transport) = transport(rng, ends.ports, payload.len());
        if rng.u8(..100) < 4 {
            // ICMP, SCTP, ESP, no next header; IP in IP, IPv6 in IP, GRE.
            (protocol, transport) = (*pick(rng, &[1, 58, 132, 50, 59, 4, 41, 47]), Vec::new());
        }
        if let Some(cut) = cut.filter(|cut| *cut < transport.len()) {
            // The fragment ends within the transport header.
            transport.truncate(cut);
            payload.clear();
        }
        if let Piece::Later(_) = piece {
            transport.clear();
            if payload.is_empty() {
                payload.extend([b'y'; 8]);
            }
        }
        let mut layers = match (ends.addresses[0], ends.addresses[1]) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let options = 4 * *pick(rng, &[0, 0, 0, 0, 1, 3, 6, 10]);
                let mut ip = vec![0x45 + (options / 4) as u8, 0];
                ip.extend(((20 + options + transport.len() + payload.len()) as u16).to_be_bytes());
                ip.extend([0, rng.u8(..6)]);
                ip.extend(piece.v4(rng).to_be_bytes());
                ip.extend([64, protocol, 0, 0]);
                ip.extend([from.octets(), to.octets()].concat());
                ip.extend(std::iter::repeat_n(1, options));
                vec![(Layer::Ip4, ip)]
            }
            (from, to) => {
                let extensions = extensions(rng, &piece);
                let length: usize = extensions.iter().map(Vec::len).sum();
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend(((length + transport.len() + payload.len()) as u16).to_be_bytes());
                // Each extension header's first byte has its own type here; it moves to the next-header field
                // of the header before it.
                ip.extend([extensions.first().map_or(protocol, |first| first[0]), 64]);
                for end in [from, to] {
                    if let IpAddr::V6(ip6) = end {
                        ip.extend(ip6.octets());
                    }
                }
                let kinds: Vec<u8> = extensions.iter().map(|one| one[0]).chain([protocol]).collect();
                let mut layers = vec![(Layer::Ip6, ip)];
                for (mut one, next) in extensions.into_iter().zip(&kinds[1..]) {
                    one[0] = *next;
                    layers.push((Layer::Extension, one));
                }
                layers
            }
        };
        if !transport.is_empty() {
            layers.push((Layer::Transport, transport));
        }
        layers.push((Layer::Payload, payload));
        layers
    }

    /// Returns the bytes of the frame.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.layers.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    }

    /// Returns the first layer of one of these types, and its range in the frame.
    pub(super) fn find(&self, wanted: &[Layer]) -> Option<(Layer, Range<usize>)> {
        let mut offset = 0;
        for (layer, bytes) in &self.layers {
            if wanted.contains(layer) {
                return Some((*layer, offset..offset + bytes.len()));
            }
            offset += bytes.len();
        }
        None
    }

    /// Returns the length of all headers.
    pub(super) fn headers(&self) -> usize {
        self.find(&[Layer::Payload]).map_or_else(|| self.bytes().len(), |(_, range)| range.start)
    }
}

/// Position of a fragment in its packet.
enum Piece {
    Whole,
    Atomic,
    First,
    /// Fragment at this offset, in units of eight bytes.
    Later(u16),
}

impl Piece {
    fn any(rng: &mut Rng) -> Self {
        match rng.u8(..100) {
            0..86 => Piece::Whole,
            86..88 => Piece::Atomic,
            88..93 => Piece::First,
            // Near the beginning, where headers may be, or anywhere.
            _ if rng.bool() => Piece::Later(rng.u16(1..9)),
            _ => Piece::Later(rng.u16(1..0x1fff)),
        }
    }

    /// Returns flags and offset (RFC 791, 3.1); the reserved bit and "don't fragment" have no effect.
    fn v4(&self, rng: &mut Rng) -> u16 {
        match self {
            Piece::Whole | Piece::Atomic => *pick(rng, &[0, 0x4000, 0x8000]),
            Piece::First => 0x2000,
            Piece::Later(offset) => offset | *pick(rng, &[0, 0x2000]),
        }
    }

    /// Returns bytes two to eight of the fragment header (RFC 8200, 4.5).
    fn v6(&self, rng: &mut Rng) -> Vec<u8> {
        let word = match self {
            Piece::Whole | Piece::Atomic => *pick(rng, &[0, 6]),
            Piece::First => 1,
            Piece::Later(offset) => offset << 3 | rng.u16(..2),
        };
        let mut bytes = vec![0];
        bytes.extend(u16::to_be_bytes(word));
        bytes.extend([0, 0, 0, rng.u8(..6)]);
        bytes
    }
}

/// Returns extension headers, each with its own type in place of its next header.
fn extensions(rng: &mut Rng, piece: &Piece) -> Vec<Vec<u8>> {
    let count = *pick(rng, &[0, 0, 0, 0, 1, 1, 2, 3, 5, 6, 7, 8, 9]);
    let mut headers: Vec<Vec<u8>> = (0..count)
        .map(|_| {
            let kind = *pick(rng, &[0, 43, 51, 60, 135, 139, 140]);
            // Length in units of eight bytes minus one; the authentication header's is in units of four minus
            // two.
            let (stated_length, length) = match (kind, rng.u8(..20)) {
                (51, _) => (4, 24),
                (_, 0) => (31, 256),
                (_, 1..4) => (2, 24),
                _ => (0, 8),
            };
            let mut header = vec![kind, stated_length];
            header.resize(length, 0);
            header
        })
        .collect();
    if !matches!(piece, Piece::Whole) {
        let place = rng.usize(..=headers.len().min(3));
        headers.insert(place, [vec![44], piece.v6(rng)].concat());
    }
    headers
}

/// Creates a PPP over Ethernet session header (RFC 2516, 4; RFC 1332, 5072), sometimes with another protocol.
fn pppoe(rng: &mut Rng, ethertype: u16, ip: &[(Layer, Vec<u8>)]) -> Vec<u8> {
    let length: usize = ip.iter().map(|(_, bytes)| bytes.len()).sum();
    let protocol: u16 = match ethertype {
        _ if rng.u8(..20) == 0 => *pick(rng, &[0xc021, 0x8021, 0x0281]),
        0x0800 => 0x0021,
        _ => 0x0057,
    };
    let mut bytes = vec![0x11, 0, 0, 1];
    bytes.extend(((length + 2) as u16).to_be_bytes());
    bytes.extend(protocol.to_be_bytes());
    bytes
}

/// Returns a TCP or UDP header with its protocol number.
fn transport(rng: &mut Rng, ports: [u16; 2], payload: usize) -> (u8, Vec<u8>) {
    let mut header: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
    if rng.u8(..100) < 15 {
        header.extend(((payload + 8) as u16).to_be_bytes());
        header.extend([0, 0]);
        return (17, header);
    }
    const SYN: u8 = 0x02;
    let flags = match rng.u8(..100) {
        0..12 => SYN,
        12..22 => SYN | 0x10,
        22..50 => 0x10,
        50..80 => 0x18,
        80..92 => 0x11,
        92..96 => 0x14,
        _ => rng.u8(..),
    };
    // Few initial numbers, so that some SYNs are new and some are retransmissions.
    let number = *pick(rng, &[100, 5_000, u32::MAX]);
    let sequence = match rng.u8(..10) {
        _ if flags & SYN != 0 => number,
        0..7 => number.wrapping_add(1),
        _ => rng.u32(..),
    };
    let options = *pick(rng, &[0, 0, 0, 3, 5, 10]);
    let options = tcp_options(rng, options * 4);
    header.extend(sequence.to_be_bytes());
    header.extend([0; 4]);
    header.extend([(5 + options.len() as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header.extend(options);
    (6, header)
}

/// Returns TCP options of this length: often padding, otherwise some options, including MP_JOIN (RFC 8684,
/// 3.2).
fn tcp_options(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut options = Vec::new();
    if rng.u8(..3) == 0 {
        for _ in 0..rng.u8(1..6) {
            let (kind, size): (u8, usize) = *pick(
                rng,
                &[
                    (1, 1),
                    (1, 1),
                    (2, 4),
                    (3, 3),
                    (4, 2),
                    (8, 10),
                    (30, 12),
                    (30, 12),
                    (30, 16),
                    (30, 3),
                    (30, 2),
                    (0, 1),
                ],
            );
            let mut option = vec![kind; size.min(1)];
            option.extend((size > 1).then_some(size as u8));
            // MP_CAPABLE, MP_JOIN, DSS.
            option.extend((size > 2).then(|| *pick(rng, &[0x10, 0x10, 0x1f, 0x01, 0x20])));
            option.resize(size, 7);
            options.extend(option);
        }
    }
    options.resize(options.len().max(length), 1);
    options.truncate(length);
    options
}
