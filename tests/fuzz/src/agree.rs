//! Comparison of the product's parser with the reference parser.

use std::{mem::MaybeUninit, net::IpAddr};

use mailflow_common::{Address, Reason, Scope, Vlans};
use mailflow_ebpf::{Gso, Metadata, ParsedHeaders, SliceFrame, parse_fast, parse_headers};
use mailflow_test_support::reference_dataplane::{self, Link, Packet, Shown, Transport};

/// Parser result, in a form that both parsers can be converted to.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    ports: Option<(u16, u16)>,
    fragment: Option<(Address, Address, u32, Scope, u64, u64)>,
    segment: Result<Segment, Reason>,
}

#[derive(Debug, PartialEq, Eq)]
struct Segment {
    ends: [(Address, u16); 2],
    scope: Scope,
    length: u64,
    headers: u64,
    payload: u64,
    offset: usize,
    tcp: Option<(u32, u8)>,
    packets: u64,
    bytes: u64,
}

/// Compares both parsers on a frame.
///
/// # Panics
/// The results differ.
pub(crate) fn agree(shown: &Shown<'_>) {
    let (link, ethertype) = match shown.link {
        Link::Ethernet => (mailflow_ebpf::Link::Ethernet, 0),
        Link::Ip(ethertype) => (mailflow_ebpf::Link::Ip, ethertype),
    };
    let frame = SliceFrame::partial(shown.bytes, shown.length as u32);
    let metadata = Metadata { ethertype, tag: shown.tag };
    let product = parse_headers(&frame, link, metadata)
        .and_then(|located| match located.ports() {
            None => located.later(&frame).map(|_| located),
            Some(_) => Ok(located),
        })
        .map(|located| product(&located, &frame, shown));
    if let Some(plain) = parse_fast(&frame, link, metadata) {
        let short = self::product(&plain.parsed(&frame), &frame, shown);
        assert_eq!(product.as_ref(), Ok(&short), "right is the short way's, of {shown:02x?}");
    }
    let slow = reference_dataplane::parse(shown).map(|packet| slowly(&packet, shown));
    assert_eq!(product, slow, "left is the product's, of {shown:02x?}");
}

fn product(located: &ParsedHeaders, frame: &SliceFrame<'_>, shown: &Shown<'_>) -> Said {
    let gso = Gso { size: shown.merged.size, segments: shown.merged.segments };
    let ends = located.addresses(frame);
    Said {
        ports: located.ports(),
        fragment: located.fragment(frame).zip(ends.ok()).map(|(one, (source, destination))| {
            let sizes = (u64::from(one.length), u64::from(one.headers));
            (source, destination, one.identification, one.scope, sizes.0, sizes.1)
        }),
        segment: located.segment(frame).and_then(|segment| {
            let packets = segment.packets(gso);
            let mut place = MaybeUninit::uninit();
            let key = located.key(frame, true, &mut place)?;
            Ok(Segment {
                ends: [(key.client, key.client_port), (key.server, key.server_port)],
                scope: segment.scope,
                length: u64::from(segment.length),
                headers: u64::from(segment.headers),
                payload: u64::from(segment.payload()),
                offset: segment.payload_offset as usize,
                tcp: segment.is_tcp().then_some((segment.tcp.sequence, segment.tcp.flags)),
                packets: u64::from(packets),
                bytes: segment.bytes(packets),
            })
        }),
    }
}

fn slowly(packet: &Packet, shown: &Shown<'_>) -> Said {
    let scope = |protocol: u8| {
        let zone = packet.zone.iter().fold(Vlans::default(), |zone, tag| zone.push(*tag));
        Scope::new(zone, protocol, packet.source.is_ipv6())
    };
    let ends = [Address::from(packet.source), Address::from(packet.destination)];
    let transport = |transport: Transport, ports: (u16, u16)| {
        let headers = packet.ip_header + transport.header;
        let packets = match (shown.merged.size, shown.merged.segments) {
            (0, _) => 1,
            (size, 0) => transport.payload.div_ceil(u64::from(size)).max(1),
            (_, segments) => u64::from(segments),
        };
        Segment {
            ends: [(ends[0], ports.0), (ends[1], ports.1)],
            scope: scope(packet.protocol),
            length: packet.length,
            headers,
            payload: transport.payload,
            offset: transport.offset,
            tcp: transport.tcp,
            packets,
            bytes: packet.length + (packets - 1) * headers,
        }
    };
    Said {
        ports: packet.ports.as_ref().map(|ports| (ports.source, ports.destination)),
        fragment: packet.fragment.as_ref().map(|fragment| {
            // IPv6's identification keeps its memory order: it is only compared for equality.
            let identification = match packet.source {
                IpAddr::V4(_) => u32::from_be_bytes(fragment.identification),
                IpAddr::V6(_) => u32::from_ne_bytes(fragment.identification),
            };
            let scope = scope(fragment.protocol);
            (ends[0], ends[1], identification, scope, packet.length, packet.ip_header)
        }),
        segment: match &packet.ports {
            None => Err(Reason::Fragment),
            Some(ports) => {
                ports.transport.clone().map(|header| transport(header, (ports.source, ports.destination)))
            }
        },
    }
}
