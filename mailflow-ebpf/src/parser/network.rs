//! Network layer: IPv4 with options, IPv6 with extension headers.

use mailflow_common::{Address, PROTOCOL_TCP, PROTOCOL_UDP, Reason};

use super::{
    frame::{Frame, Header},
    link::{IPV4, Network},
};

/// Extension headers that are followed; RFC 8200 lets each kind come once, destination options twice.
const EXTENSIONS: usize = 7;
/// Furthest the IP header may begin, as a mask.
pub(crate) const START: usize = 0x1f;
/// Furthest the transport header may begin after the IP header's start.
const DEEPEST: usize = 0x1ff;

/// Part of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The first fragment, with the transport header.
    First,
    /// Any other.
    Later,
}

/// IP packet, with its headers parsed.
pub(crate) struct Packet {
    pub(crate) v6: bool,
    pub(crate) protocol: u8,
    pub(crate) part: Part,
    /// Of a fragment in IPv6: where its fragment header begins, from the IP header's start.
    pub(crate) fragment: usize,
    /// Offset of the IP header.
    pub(crate) start: usize,
    /// Length of the IP header with its options or extension headers.
    pub(crate) header: usize,
    /// IP total length.
    pub(crate) length: u32,
}

#[inline(always)]
pub(crate) fn parse<F: Frame>(frame: &F, network: &Network) -> Result<Packet, Reason> {
    let start = frame.opaque(network.offset, START);
    let packet = if network.ethertype == IPV4 { v4(frame, start)? } else { v6(frame, start)? };
    // Both are small: a total length has 16 bits, or it is what the frame has.
    if !frame.holds(packet.length.wrapping_add(start as u32)) {
        return Err(Reason::ForgedLength);
    }
    Ok(packet)
}

/// The IP total length `said` in the header. It is 0 where it would not fit (BIG TCP, Linux 5.19) or
/// where the NIC has yet to fill it in: then the frame tells.
#[inline(always)]
fn total_length<F: Frame>(frame: &F, start: usize, said: u32) -> u32 {
    if said == 0 { frame.length().wrapping_sub(start as u32) } else { said }
}

/// RFC 791, 3.1.
#[inline(always)]
fn v4<F: Frame>(frame: &F, start: usize) -> Result<Packet, Reason> {
    let ip = frame.header::<20>(start).ok_or(Reason::Truncated)?;
    let header = usize::from(ip.u8::<0>() & 0xf) << 2;
    if ip.u8::<0>() >> 4 != 4 || header < 20 {
        return Err(Reason::Malformed);
    }
    let protocol = ip.u8::<9>();
    transport(protocol)?;
    let length = total_length(frame, start, u32::from(ip.be16::<2>()));
    if length < header as u32 {
        return Err(Reason::Malformed);
    }
    // RFC 791, 3.1: 13 bits of offset below more-fragments.
    let position = ip.be16::<6>() & 0x3fff;
    let part = match (position & 0x1fff, position) {
        (0, 0) => Part::Whole,
        (0, _) => Part::First,
        _ => Part::Later,
    };
    Ok(Packet { v6: false, protocol, part, fragment: 0, start, header, length })
}

/// RFC 8200, 3 and 4.
#[inline(always)]
fn v6<F: Frame>(frame: &F, start: usize) -> Result<Packet, Reason> {
    let ip = frame.header::<40>(start).ok_or(Reason::Truncated)?;
    if ip.u8::<0>() >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let said = match u32::from(ip.be16::<4>()) {
        0 => 0,
        payload => payload + 40,
    };
    let mut protocol = ip.u8::<6>();
    let mut header = 40;
    let mut followed = 0;
    let mut part = Part::Whole;
    let mut fragment = 0;
    while part != Part::Later && extension(protocol) {
        if followed == EXTENSIONS || header > DEEPEST - 8 {
            return Err(Reason::TooDeep);
        }
        let next = frame.header::<8>(start + header).ok_or(Reason::Truncated)?;
        header += match protocol {
            FRAGMENT => {
                // RFC 8200, 4.5: 13 bits of offset, two reserved, more-fragments. A packet may come as
                // one "atomic" fragment (RFC 6946).
                let position = next.be16::<2>() & 0xfff9;
                if position != 0 {
                    part = if position & 0xfff8 == 0 { Part::First } else { Part::Later };
                    fragment = header;
                }
                8
            }
            // RFC 4302, 2.2: in words of four bytes, less two.
            AUTHENTICATION => (usize::from(next.u8::<1>()) + 2) << 2,
            _ => (usize::from(next.u8::<1>()) + 1) << 3,
        };
        if header > DEEPEST {
            return Err(Reason::TooDeep);
        }
        protocol = next.u8::<0>();
        header = frame.opaque(header, DEEPEST);
        followed += 1;
    }
    // What a later fragment begins with is not known: its first one had the headers between.
    if part != Part::Later || !extension(protocol) {
        transport(protocol)?;
    }
    let length = total_length(frame, start, said);
    if length < header as u32 {
        return Err(Reason::Malformed);
    }
    Ok(Packet { v6: true, protocol, part, fragment, start, header, length })
}

impl Packet {
    /// Source and destination.
    #[inline(always)]
    pub(crate) fn addresses<F: Frame>(&self, frame: &F) -> Result<(Address, Address), Reason> {
        if self.v6 { self.addresses6(frame) } else { self.addresses4(frame) }
    }

    /// Parses an IPv4 header.
    #[inline(always)]
    pub(crate) fn addresses4<F: Frame>(&self, frame: &F) -> Result<(Address, Address), Reason> {
        let ip = frame.header::<20>(frame.opaque(self.start, START)).ok_or(Reason::Truncated)?;
        Ok((Address::v4(ip.raw32::<12>()), Address::v4(ip.raw32::<16>())))
    }

    /// Parses an IPv6 header.
    #[inline(always)]
    pub(crate) fn addresses6<F: Frame>(&self, frame: &F) -> Result<(Address, Address), Reason> {
        let ip = frame.header::<40>(frame.opaque(self.start, START)).ok_or(Reason::Truncated)?;
        let source = Address::v6([ip.raw32::<8>(), ip.raw32::<12>(), ip.raw32::<16>(), ip.raw32::<20>()]);
        let destination =
            Address::v6([ip.raw32::<24>(), ip.raw32::<28>(), ip.raw32::<32>(), ip.raw32::<36>()]);
        Ok((source, destination))
    }

    /// Returns the identification and offset of a fragment.
    #[inline(always)]
    pub(crate) fn identity<F: Frame>(&self, frame: &F) -> Result<Identity, Reason> {
        if self.v6 {
            let offset = frame.opaque(self.start, START) + frame.opaque(self.fragment, DEEPEST);
            let fragment = frame.header::<8>(offset).ok_or(Reason::Truncated)?;
            return Ok(Identity {
                identification: fragment.raw32::<4>(),
                protocol: fragment.u8::<0>(),
                offset: u32::from(fragment.be16::<2>() & 0xfff8),
                between: self.header as u32 - self.fragment as u32 - 8,
            });
        }
        let ip = frame.header::<20>(frame.opaque(self.start, START)).ok_or(Reason::Truncated)?;
        Ok(Identity {
            identification: u32::from(ip.be16::<4>()),
            protocol: self.protocol,
            offset: u32::from(ip.be16::<6>() & 0x1fff) << 3,
            between: 0,
        })
    }
}

/// Identification of a fragmented packet, and position of a fragment.
pub(crate) struct Identity {
    pub(crate) identification: u32,
    /// The protocol (RFC 8200: next header) that the fragments carry.
    pub(crate) protocol: u8,
    /// Offset in the fragmented part.
    pub(crate) offset: u32,
    /// Length of the extension headers between the fragment header and the transport header.
    pub(crate) between: u32,
}

const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// Hop-by-hop, routing, fragment, authentication, destination options (RFC 8200, 4), mobility
/// (RFC 6275), HIP (RFC 7401), shim6 (RFC 5533).
#[inline(always)]
fn extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | FRAGMENT | AUTHENTICATION | 60 | 135 | 139 | 140)
}

/// Returns true if `protocol` is counted.
#[inline(always)]
fn transport(protocol: u8) -> Result<(), Reason> {
    match protocol {
        PROTOCOL_TCP | PROTOCOL_UDP => Ok(()),
        // IP in IP, IPv6 in IP, GRE.
        4 | 41 | 47 => Err(Reason::Tunnel),
        _ => Err(Reason::NotTransport),
    }
}
