//! Parser from frames to packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mailflow_common::Reason;

use super::packet::{FragmentOf, Headers, Link, Packet, Piece, Ports, Shown, Transport};

/// Maximum number of VLAN tags, in the frame and in metadata.
const TAGS: usize = 2;
/// Maximum number of IPv6 extension headers.
const EXTENSIONS: usize = 7;
/// Maximum length of all IPv6 headers.
const DEEPEST: usize = 511;

/// Parses a frame from the outside in.
///
/// # Errors
/// The reason why it is no TCP or UDP packet with known ports.
pub fn parse(shown: &Shown<'_>) -> Result<Packet, Reason> {
    let mut path = Vec::new();
    let (ethertype, start, zone) = link(shown, &mut path)?;
    let mut packet = match ethertype {
        0x0800 => v4(shown, start, zone, &mut path)?,
        0x86dd => v6(shown, start, zone, &mut path)?,
        // RFC 3032 and 5332.
        0x8847 | 0x8848 => return Err(Reason::Mpls),
        // FabricPath; 802.1ah; VN-Tag; 802.1BR; TRILL (RFC 6325); 802.1AE; RFC 8300.
        0x8903 | 0x88e7 | 0x8926 | 0x893f | 0x22f3 | 0x88e5 | 0x894f => return Err(Reason::LinkTunnel),
        _ => return Err(Reason::NotIp),
    };
    if packet.length < packet.ip_header {
        return Err(Reason::Malformed);
    }
    if start as u64 + packet.length > shown.length as u64 {
        return Err(Reason::ForgedLength);
    }
    if start as u64 + packet.length < shown.length as u64 {
        path.push("padding behind the packet");
    }
    let transport = start + packet.ip_header as usize;
    match packet.fragment {
        Some(_) if path.contains(&"later fragment") => {
            // A fragment behind the first one must have a payload.
            if packet.length == packet.ip_header {
                return Err(Reason::Malformed);
            }
            packet.piece.headers = second(shown, transport, &packet);
        }
        _ => packet.ports = Some(ports(shown, transport, &packet, &mut path)?),
    }
    if let Some(ports) = packet.ports.as_ref().filter(|_| packet.fragment.is_some()) {
        packet.piece.headers = first(shown, transport, &packet, ports);
    }
    packet.path = path;
    Ok(packet)
}

/// Returns the end of the headers, from a first fragment. TCP's data offset is in the thirteenth byte.
fn first(shown: &Shown<'_>, transport: usize, packet: &Packet, ports: &Ports) -> Headers {
    // Extension headers in the fragmentable part.
    let between = packet.piece.begin;
    match shown.bytes.get(transport + 12) {
        _ if packet.protocol == 17 => Headers::At(between + 8),
        Some(byte) if packet.length - packet.ip_header > 12 => match u64::from(byte >> 4) * 4 {
            length if length >= 20 => Headers::At(between + length),
            // Such a packet is malformed.
            _ => Headers::Unknown,
        },
        _ if ports.transport.is_ok() => Headers::AtLeast(between + 20),
        _ => Headers::Unknown,
    }
}

/// Returns the end of the headers, from the second fragment of a packet whose first fragment has eight bytes.
fn second(shown: &Shown<'_>, transport: usize, packet: &Packet) -> Headers {
    let tcp = packet.fragment.as_ref().is_some_and(|fragment| fragment.protocol == 6);
    match shown.bytes.get(transport + 4) {
        Some(byte) if tcp && packet.piece.begin == 8 && packet.length - packet.ip_header > 4 => {
            match u64::from(byte >> 4) * 4 {
                length if length >= 20 => Headers::At(length),
                _ => Headers::Unknown,
            }
        }
        _ => Headers::Unknown,
    }
}

/// Returns `length` bytes from `offset`.
fn bytes<'a>(shown: &Shown<'a>, offset: usize, length: usize) -> Result<&'a [u8], Reason> {
    shown.bytes.get(offset..offset + length).ok_or(Reason::Truncated)
}

fn word(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

/// Returns the ethertype and offset of the network layer, and the tags before it.
fn link(shown: &Shown<'_>, path: &mut Vec<&'static str>) -> Result<(u16, usize, Vec<u16>), Reason> {
    let mut tags: Vec<u16> = shown.tag.into_iter().collect();
    if shown.tag.is_some() {
        path.push("tag beside the frame");
    }
    let (mut ethertype, mut offset) = match shown.link {
        Link::Ethernet => (word(bytes(shown, 0, 14)?, 12), 14),
        Link::Ip(ethertype) => (ethertype, 0),
    };
    if shown.link == Link::Ethernet {
        path.push("ethernet");
        // Customer and service tags of IEEE 802.1Q, and their non-standard predecessors.
        while [0x8100, 0x88a8, 0x9100, 0x9200].contains(&ethertype) {
            if tags.len() == TAGS {
                return Err(Reason::TooDeep);
            }
            let tag = bytes(shown, offset, 4)?;
            tags.push(word(tag, 0));
            ethertype = word(tag, 2);
            offset += 4;
        }
    } else {
        path.push("no link header");
    }
    path.push(["no tag", "one tag", "two tags"][tags.len()]);
    // RFC 2516: version and type, code, session, length; then PPP's protocol (RFC 1332, 5072).
    if ethertype == 0x8864 {
        path.push("pppoe");
        ethertype = match word(bytes(shown, offset, 8)?, 6) {
            0x0021 => 0x0800,
            0x0057 => 0x86dd,
            // RFC 3032, 4.3.
            0x0281 | 0x0283 => 0x8847,
            _ => return Err(Reason::NotIp),
        };
        offset += 8;
    }
    let zone = tags.into_iter().map(|tag| tag & 0xfff).filter(|id| *id != 0).collect();
    Ok((ethertype, offset, zone))
}

/// Returns the total length. Zero stands for the frame's length (BIG TCP, and buffers before segmentation).
fn total(shown: &Shown<'_>, start: usize, stated: u64, path: &mut Vec<&'static str>) -> u64 {
    if stated != 0 {
        return stated;
    }
    path.push("no total length");
    (shown.length - start) as u64
}

/// Parses an IPv4 header (RFC 791, 3.1).
fn v4(
    shown: &Shown<'_>,
    start: usize,
    zone: Vec<u16>,
    path: &mut Vec<&'static str>,
) -> Result<Packet, Reason> {
    let ip = bytes(shown, start, 20)?;
    let header = usize::from(ip[0] & 15) * 4;
    if ip[0] >> 4 != 4 || header < 20 {
        return Err(Reason::Malformed);
    }
    let protocol = ip[9];
    counted(protocol)?;
    path.push(if header == 20 { "ipv4" } else { "ipv4 with options" });
    let address = |offset: usize| -> IpAddr {
        Ipv4Addr::new(ip[offset], ip[offset + 1], ip[offset + 2], ip[offset + 3]).into()
    };
    let (source, destination) = (address(12), address(16));
    let (offset, more) = (word(ip, 6) & 0x1fff, word(ip, 6) & 0x2000 != 0);
    let identification = [0, 0, ip[4], ip[5]];
    let fragment = fragment(offset != 0, more, path).then(|| FragmentOf {
        zone: zone.clone(),
        source,
        destination,
        identification,
        protocol,
    });
    Ok(Packet {
        zone,
        source,
        destination,
        protocol,
        length: total(shown, start, u64::from(word(ip, 2)), path),
        ip_header: header as u64,
        fragment,
        piece: Piece { begin: u64::from(offset) * 8, headers: Headers::Unknown },
        ports: None,
        path: Vec::new(),
    })
}

/// Parses an IPv6 header and its extensions (RFC 8200, 3 and 4).
fn v6(
    shown: &Shown<'_>,
    start: usize,
    zone: Vec<u16>,
    path: &mut Vec<&'static str>,
) -> Result<Packet, Reason> {
    let ip = bytes(shown, start, 40)?;
    if ip[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let address = |offset: usize| -> IpAddr {
        Ipv6Addr::from(<[u8; 16]>::try_from(&ip[offset..offset + 16]).unwrap_or_default()).into()
    };
    let (source, destination) = (address(8), address(24));
    let mut header = 40;
    let mut next = ip[6];
    let mut followed = 0;
    let mut piece = None;
    let (mut begin, mut cut_at) = (0, 0);
    let mut later = false;
    while let Some(name) = extension(next).filter(|_| !later) {
        if followed == EXTENSIONS || header + 8 > DEEPEST {
            return Err(Reason::TooDeep);
        }
        followed += 1;
        let extension = bytes(shown, start + header, 8)?;
        header += match next {
            44 => {
                // RFC 8200, 4.5; an atomic fragment (RFC 6946) is a whole packet.
                let (offset, more) = (word(extension, 2) >> 3, extension[3] & 1 == 1);
                if fragment(offset != 0, more, path) {
                    later = offset != 0;
                    (begin, cut_at) = (u64::from(offset) * 8, header + 8);
                    piece = Some(FragmentOf {
                        zone: zone.clone(),
                        source,
                        destination,
                        identification: [extension[4], extension[5], extension[6], extension[7]],
                        protocol: extension[0],
                    });
                } else {
                    path.push("atomic fragment");
                }
                8
            }
            // RFC 4302, 2.2.
            51 => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        if header > DEEPEST {
            return Err(Reason::TooDeep);
        }
        path.push(name);
        next = extension[0];
    }
    // Only the first fragment contains the headers between.
    if !later || extension(next).is_none() {
        counted(next)?;
    }
    path.push(if followed == 0 { "ipv6" } else { "ipv6 with extensions" });
    if followed == EXTENSIONS {
        path.push("as many extensions as are followed");
    }
    let stated = match u64::from(word(ip, 4)) {
        0 => 0,
        payload => 40 + payload,
    };
    Ok(Packet {
        zone,
        source,
        destination,
        protocol: next,
        length: total(shown, start, stated, path),
        ip_header: header as u64,
        piece: Piece {
            // First fragment: length of the headers between the fragment header and the transport header.
            begin: if piece.is_some() && !later { (header - cut_at) as u64 } else { begin },
            headers: Headers::Unknown,
        },
        fragment: piece,
        ports: None,
        path: Vec::new(),
    })
}

/// Returns true if the packet is a fragment.
fn fragment(later: bool, more: bool, path: &mut Vec<&'static str>) -> bool {
    match (later, more) {
        (false, false) => return false,
        (false, true) => path.push("first fragment"),
        (true, _) => path.push("later fragment"),
    }
    true
}

/// Returns the name of an extension header (RFC 8200, 4; RFC 4302, 6275, 7401, 5533).
fn extension(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0 => "hop-by-hop options",
        43 => "routing header",
        44 => "fragment header",
        51 => "authentication header",
        60 => "destination options",
        135 => "mobility header",
        139 => "hip",
        140 => "shim6",
        _ => return None,
    })
}

fn counted(protocol: u8) -> Result<(), Reason> {
    match protocol {
        6 | 17 => Ok(()),
        // IP in IP (RFC 2003), IPv6 in IP (RFC 4213), GRE (RFC 2784).
        4 | 41 | 47 => Err(Reason::Tunnel),
        _ => Err(Reason::NotTransport),
    }
}

fn ports(
    shown: &Shown<'_>,
    offset: usize,
    packet: &Packet,
    path: &mut Vec<&'static str>,
) -> Result<Ports, Reason> {
    let ports = bytes(shown, offset, 4)?;
    Ok(Ports {
        source: word(ports, 0),
        destination: word(ports, 2),
        transport: transport(shown, offset, packet, path),
    })
}

/// Parses a TCP or UDP header (RFC 9293, 3.1; RFC 768).
fn transport(
    shown: &Shown<'_>,
    offset: usize,
    packet: &Packet,
    path: &mut Vec<&'static str>,
) -> Result<Transport, Reason> {
    let here = packet.length - packet.ip_header;
    let first = packet.fragment.is_some();
    let mut joins = false;
    let (header, tcp) = if packet.protocol == 6 && first && here < 14 {
        // RFC 1858, 3: a partial header without the flags.
        path.push("a part of tcp's header");
        (here as usize, Some((0, 0)))
    } else if packet.protocol == 6 {
        let tcp = bytes(shown, offset, if first && here < 20 { 14 } else { 20 })?;
        let mut header = usize::from(tcp[12] >> 4) * 4;
        if header < 20 {
            return Err(Reason::Malformed);
        }
        path.push(if header == 20 { "tcp" } else { "tcp with options" });
        if first && header as u64 > here {
            path.push("a part of tcp's header, with the flags");
            header = here as usize;
        }
        if header > 20 && offset + header <= shown.bytes.len() {
            let whole = (header - 20) / 4 * 4;
            joins = options(&shown.bytes[offset + 20..offset + 20 + whole]).contains(&(30, 1));
        }
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        (header, Some((sequence, tcp[13])))
    } else {
        path.push("udp");
        (8, None)
    };
    let headers = packet.ip_header + header as u64;
    let payload = packet.length.checked_sub(headers).ok_or(Reason::Malformed)?;
    path.push(if payload == 0 { "no payload" } else { "payload" });
    Ok(Transport { header: header as u64, tcp, joins, payload, offset: offset + header })
}

/// Returns TCP's options (RFC 9293, 3.1) as kind and the upper half of the byte after the length, up to the
/// first invalid one.
fn options(mut bytes: &[u8]) -> Vec<(u8, u8)> {
    let mut found = Vec::new();
    loop {
        match bytes {
            [] | [0, ..] => return found,
            [1, rest @ ..] => bytes = rest,
            [_] | [_, 0 | 1, ..] => return found,
            [kind, length, rest @ ..] => {
                // MP_JOIN has 12 bytes in a SYN and 16 in a SYN-ACK.
                if *length >= 12 && bytes.len() >= 12 {
                    found.push((*kind, rest[0] >> 4));
                }
                let Some(rest) = bytes.get(usize::from(*length)..) else { return found };
                bytes = rest;
            }
        }
    }
}
