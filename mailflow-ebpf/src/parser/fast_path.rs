//! The short way through frames as nearly all are.

use core::hint::cold_path;

use mailflow_common::{FlowTableKey, PROTOCOL_TCP, PROTOCOL_UDP, Scope, Vlans};

use super::{
    frame::{Frame, Header},
    headers::{ParsedHeaders, Segment},
    link::{IPV4, Link, Metadata},
    network::{self, Part},
    transport::{self, Tcp},
};

/// A whole TCP or UDP packet in IPv4 without options, in a frame without tags that holds all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastPathHeaders {
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    length: u32,
    start: usize,
}

/// Looks whether a frame is a plain one: a third of the instructions of [`crate::parse_headers`], and for most
/// frames all there is to do, as their ports are not watched. `None` says nothing about a frame.
#[inline(always)]
pub fn parse_fast<F: Frame>(frame: &F, link: Link, metadata: Metadata) -> Option<FastPathHeaders> {
    let (ethertype, start) = match link {
        Link::Ethernet => (frame.header::<14>(0)?.be16::<12>(), 14),
        Link::Ip => (metadata.ethertype, 0),
    };
    if unlikely(ethertype != IPV4) || unlikely(metadata.tag.is_some()) {
        return None;
    }
    let ip = frame.header::<24>(start)?;
    let protocol = ip.u8::<9>();
    let length = u32::from(ip.be16::<2>());
    // Version 4 and a header of five words; no offset and no more fragments (RFC 791, 3.1).
    if unlikely(ip.u8::<0>() != 0x45)
        || unlikely(ip.be16::<6>() & 0x3fff != 0)
        || unlikely(protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP)
        || unlikely(length < 20)
        || unlikely(!frame.holds(length + start as u32))
    {
        return None;
    }
    let (source_port, destination_port) = (ip.be16::<20>(), ip.be16::<22>());
    Some(FastPathHeaders { source_port, destination_port, protocol, length, start })
}

/// Has what follows put behind the code of the short way, which then lies in fewer lines of the cache.
#[inline(always)]
fn unlikely(condition: bool) -> bool {
    if condition {
        cold_path();
    }
    condition
}

impl FastPathHeaders {
    /// Returns the headers, as [`crate::parse_headers`] does.
    #[inline(always)]
    pub fn parsed<F: Frame>(&self, frame: &F) -> ParsedHeaders {
        let start = frame.opaque(self.start, network::START);
        let packet = network::Packet {
            v6: false,
            protocol: self.protocol,
            part: Part::Whole,
            fragment: 0,
            start,
            header: 20,
            length: self.length,
        };
        let ports = transport::Ports { source: self.source_port, destination: self.destination_port };
        ParsedHeaders { packet, ports: Some(ports), scope: self.scope() }
    }

    /// Returns the segment, as [`ParsedHeaders::segment`] does, if it is TCP without SYN, FIN or RST. `None` leaves the
    /// frame to the slow path.
    #[inline(always)]
    pub fn established_segment<F: Frame>(&self, frame: &F) -> Option<Segment> {
        if self.protocol != PROTOCOL_TCP {
            return None;
        }
        let ip = frame.header::<40>(self.start)?;
        let tcp = Tcp { sequence: u32::from_be(ip.raw32::<24>()), flags: ip.u8::<33>() };
        let transport = u32::from(ip.u8::<32>() >> 4) << 2;
        let headers = 20 + transport;
        if tcp.notable() || transport < 20 || self.length < headers {
            return None;
        }
        Some(Segment {
            source_port: self.source_port,
            destination_port: self.destination_port,
            scope: self.scope(),
            length: self.length,
            headers,
            payload_offset: self.start as u32 + headers,
            options: transport - 20,
            tcp,
        })
    }

    /// The place of the packet's flow, going up or down; `None` says nothing about a frame.
    #[inline(always)]
    pub fn table_key<F: Frame>(&self, frame: &F, up: bool) -> Option<FlowTableKey> {
        let ip = frame.header::<20>(self.start)?;
        let (source, destination) = (ip.raw32::<12>(), ip.raw32::<16>());
        let (ends, ports) = match up {
            true => ([source, destination], [self.source_port, self.destination_port]),
            false => ([destination, source], [self.destination_port, self.source_port]),
        };
        Some(FlowTableKey::v4(ends, ports, self.scope()))
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        Scope::new(Vlans::default(), self.protocol, false)
    }
}
