//! Parser on the host: the code that the kernel runs, with frames from the specifications and with random
//! frames.

use std::mem::MaybeUninit;

use mailflow_common::{Address, FlowKey, FlowTableKey, Reason};
use mailflow_ebpf::{
    Fragment, Gso, Link, Metadata, ParsedHeaders, Segment, SliceFrame, parse_fast, parse_headers,
};
use mailflow_test_support::frame::{FrameBuilder, Transport, flag::*, short_extension};
use proptest::prelude::*;

fn all(frame: &[u8], link: Link, metadata: Metadata) -> Result<Segment, Reason> {
    segment(&SliceFrame::new(frame), link, metadata)
}

/// Parses a frame; compares the fast path with the slow path, if the fast path takes the frame.
fn segment(frame: &SliceFrame<'_>, link: Link, metadata: Metadata) -> Result<Segment, Reason> {
    let slow = parse_headers(frame, link, metadata).and_then(|located| outcome(&located, frame));
    if let Some(fast) = parse_fast(frame, link, metadata) {
        assert_eq!(outcome(&fast.parsed(frame), frame), slow, "fast and slow path differ");
        if let Some(established) = fast.established_segment(frame) {
            let (segment, keys, fragment) = slow.unwrap();
            assert_eq!((established, fragment), (segment, None), "fast path of an established connection");
            for (key, up) in keys.iter().zip([true, false]) {
                assert_eq!(fast.table_key(frame, up), Some(FlowTableKey::of(key).0));
            }
        }
        let located = parse_headers(frame, link, metadata).unwrap();
        assert_eq!(Some((fast.source_port, fast.destination_port)), located.ports());
    }
    slow.map(|(segment, ..)| segment)
}

fn outcome(
    located: &ParsedHeaders,
    frame: &SliceFrame<'_>,
) -> Result<(Segment, [FlowKey; 2], Option<Fragment>), Reason> {
    let segment = located.segment(frame)?;
    let (mut up, mut down) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    let keys = [*located.key(frame, true, &mut up)?, *located.key(frame, false, &mut down)?];
    Ok((segment, keys, located.fragment(frame)))
}

fn ethernet(frame: &FrameBuilder) -> Result<Segment, Reason> {
    all(&frame.build(), Link::Ethernet, Metadata::default())
}

#[test]
fn parsed_segment_equals_built_frame() {
    let frame = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:587", SYN | ACK)
        .sequence(0xdead_beef)
        .tcp_options(&[1, 1, 1, 1])
        .payload("hello");
    let segment = ethernet(&frame).unwrap();
    let bytes = frame.build();
    let bytes = SliceFrame::new(&bytes);
    let located = parse_headers(&bytes, Link::Ethernet, Metadata::default()).unwrap();
    let (_, [up, down], _) = outcome(&located, &bytes).unwrap();
    let ends = frame.ends.map(|(ip, port)| (Address::from(ip), port));
    assert_eq!([(up.client, up.client_port), (up.server, up.server_port)], ends);
    assert_eq!(down, up.reversed());
    assert_eq!(located.addresses(&bytes), Ok((ends[0].0, ends[1].0)));
    assert_eq!((segment.source_port, segment.destination_port), (40_000, 587));
    assert_eq!((segment.length, segment.headers, segment.payload()), (49, 44, 5));
    assert_eq!(segment.payload_offset, 14 + 44);
    assert!(segment.is_tcp());
    let tcp = segment.tcp;
    assert_eq!(
        (tcp.sequence, tcp.syn(), tcp.syn_ack(), tcp.fin(), tcp.reset()),
        (0xdead_beef, false, true, false, false)
    );
}

#[test]
fn metadata_tag_is_outer_tag() {
    let untagged = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", SYN);
    let inner = untagged.clone().tag(0x8100, 8);
    let both = untagged.clone().tag(0x88a8, 9).tag(0x8100, 8);
    let stripped = |frame: &FrameBuilder| {
        let metadata = Metadata { ethertype: 0x0800, tag: Some(9) };
        all(&frame.build(), Link::Ethernet, metadata).map(|segment| segment.scope)
    };
    assert_eq!(stripped(&inner), ethernet(&both).map(|segment| segment.scope));
    assert_eq!(stripped(&untagged), ethernet(&untagged.clone().tag(0x8100, 9)).map(|segment| segment.scope));
    assert_eq!(stripped(&both), Err(Reason::TooDeep), "three tags");
}

#[test]
fn every_vlan_ethertype_is_a_tag() {
    let untagged = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", SYN);
    let zone = |kind: u16| ethernet(&untagged.clone().tag(kind, 9)).map(|segment| segment.scope);
    for kind in [0x88a8, 0x9100, 0x9200] {
        assert_eq!((zone(kind).is_ok(), zone(kind)), (true, zone(0x8100)), "{kind:#x}");
    }
    assert_eq!(zone(0x9300), Err(Reason::NotIp));
}

#[test]
fn total_length_zero_is_frame_length() {
    let frame = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK).payload(vec![0; 1000]);
    for frame in
        [frame.clone(), FrameBuilder::tcp("[fd20::2]:40000", "[2a00::25]:25", ACK).payload(vec![0; 1000])]
    {
        let zero = frame.clone().with(|frame| frame.length = Some(0));
        assert_eq!(ethernet(&zero), ethernet(&frame));
    }
}

#[test]
fn unreadable_bytes_are_truncated_not_forged() {
    let frame = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK).payload(vec![0; 100]).build();
    let whole =
        ethernet(&FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK).payload(vec![0; 100]));
    for reachable in 0..frame.len() {
        let partial = SliceFrame::partial(&frame[..reachable], frame.len() as u32);
        let result = segment(&partial, Link::Ethernet, Metadata::default());
        let expected = if reachable < 54 { Err(Reason::Truncated) } else { whole };
        assert_eq!(result, expected, "{reachable} bytes within reach");
    }
}

#[test]
fn pppoe_is_parsed() {
    for (from, to, protocol) in
        [("10.20.0.2:40000", "93.184.215.25:25", 0x0021_u16), ("[fd20::2]:40000", "[2a00::25]:25", 0x0057)]
    {
        let frame = FrameBuilder::tcp(from, to, ACK).payload("x").with(|frame| frame.ethernet = false);
        let mut session = [vec![2; 12], vec![0x88, 0x64, 0x11, 0, 0, 5, 0, 50]].concat();
        session.extend(protocol.to_be_bytes());
        session.extend(frame.build());
        let segment = all(&session, Link::Ethernet, Metadata::default()).unwrap();
        assert_eq!(u64::from(segment.length), frame.ip_bytes());
        assert_eq!((segment.source_port, segment.payload()), (40_000, 1));
        session[20] = 0xc0; // PPP's own protocols, such as echo
        assert_eq!(all(&session, Link::Ethernet, Metadata::default()), Err(Reason::NotIp));
    }
}

#[test]
fn mpls_inside_ppp_has_mpls_reason() {
    // RFC 3032, 4.3: unicast and multicast.
    for protocol in [[0x02, 0x81], [0x02, 0x83]] {
        let frame = [&[2; 12][..], &[0x88, 0x64, 0x11, 0, 0, 5, 0, 50], &protocol, &[0; 40]].concat();
        assert_eq!(all(&frame, Link::Ethernet, Metadata::default()), Err(Reason::Mpls));
    }
}

#[test]
fn invalid_ip_header_is_malformed_with_any_protocol() {
    for protocol in [1, 6, 47] {
        let whole = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK).build();
        for first in [0x65, 0x05, 0x44] {
            let mut frame = whole.clone();
            (frame[14], frame[14 + 9]) = (first, protocol);
            assert_eq!(
                all(&frame, Link::Ethernet, Metadata::default()),
                Err(Reason::Malformed),
                "{first:#x}"
            );
        }
    }
}

#[test]
fn empty_later_fragment_is_malformed() {
    let v4 = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", 0).with(|frame| frame.fragment = 100);
    let v6 = FrameBuilder::tcp("[fd20::2]:40000", "[2a00::25]:25", 0)
        .with(|frame| frame.extensions = vec![(44, vec![0, 1, 0, 0, 0, 0, 7])]);
    for (frame, header) in [(v4, 20), (v6, 8)] {
        let empty = frame
            .with(|frame| frame.transport = Transport::Other(6))
            .with(|frame| frame.length = Some(header));
        let one = empty.clone().with(|frame| (frame.payload, frame.length) = (vec![0], Some(header + 1)));
        assert_eq!(ethernet(&empty), Err(Reason::Malformed));
        assert_eq!(ethernet(&one), Err(Reason::Fragment));
    }
}

#[test]
fn fragments_of_a_packet_have_equal_identity() {
    let parts = |frame: &FrameBuilder| {
        let bytes = frame.build();
        let frame = SliceFrame::new(&bytes);
        let located = parse_headers(&frame, Link::Ethernet, Metadata::default()).unwrap();
        (located.ports(), located.fragment(&frame), located.addresses(&frame))
    };
    let whole = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK).payload(vec![0; 64]);
    let extension =
        |position: u16| vec![(44, [vec![0], position.to_be_bytes().to_vec(), vec![0, 0, 0, 7]].concat())];
    let whole6 = FrameBuilder::tcp("[fd20::2]:40000", "[2a00::25]:25", ACK).payload(vec![0; 64]);
    let at = |frame: &FrameBuilder, position: u16| {
        frame.clone().with(|frame| match frame.ends[0].0 {
            std::net::IpAddr::V4(_) => frame.fragment = if position == 1 { 0x2000 } else { position >> 3 },
            std::net::IpAddr::V6(_) => frame.extensions = extension(position),
        })
    };
    for frame in [&whole, &whole6] {
        assert_eq!(parts(frame).1, None);
        let (first, later) = (parts(&at(frame, 1)), parts(&at(frame, 800)));
        assert_eq!((first.0, later.0), (Some((40_000, 25)), None));
        assert_eq!((first.2.is_ok(), first.2), (true, later.2));
        let (first, later) = (first.1.unwrap(), later.1.unwrap());
        assert_eq!((first.identification, first.scope), (later.identification, later.scope));
        assert_eq!(u64::from(later.length), at(frame, 800).ip_bytes());
    }
    // An atomic fragment is a whole packet.
    assert_eq!(parts(&at(&whole6, 0)).1, None);
}

#[test]
fn fast_path_takes_only_complete_plain_packets() {
    let fast = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK).payload("x");
    let six = FrameBuilder::tcp("[fd20::2]:40000", "[2a00::25]:25", ACK);
    let glanced = |frame: &FrameBuilder, tag: Option<u16>| {
        let link = if frame.ethernet { Link::Ethernet } else { Link::Ip };
        parse_fast(&SliceFrame::new(&frame.build()), link, Metadata { ethertype: 0x0800, tag }).is_some()
    };
    let established = |frame: &FrameBuilder| {
        let link = if frame.ethernet { Link::Ethernet } else { Link::Ip };
        let bytes = frame.build();
        let bytes = SliceFrame::new(&bytes);
        parse_fast(&bytes, link, Metadata { ethertype: 0x0800, tag: None })?.established_segment(&bytes)
    };
    assert!(
        established(&fast).is_some()
            && established(&fast.clone().with(|frame| frame.ethernet = false)).is_some()
    );
    assert!(established(&fast.clone().udp()).is_none());
    for flags in [SYN, SYN | ACK, FIN | ACK, RST] {
        let frame = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", flags);
        assert!(established(&frame).is_none(), "{frame:?}");
    }
    for frame in [fast.clone(), fast.clone().udp(), fast.clone().with(|frame| frame.ethernet = false)] {
        assert!(glanced(&frame, None), "{frame:?}");
        assert!(!glanced(&frame, Some(7)), "{frame:?}");
    }
    for frame in [
        six,
        fast.clone().tag(0x8100, 7),
        fast.clone().with(|frame| frame.options = vec![1; 4]),
        fast.clone().with(|frame| frame.fragment = 0x2000),
        fast.clone().with(|frame| frame.fragment = 1),
        fast.clone().with(|frame| frame.length = Some(1400)),
        fast.clone().with(|frame| frame.length = Some(0)),
        fast.clone().with(|frame| frame.transport = Transport::Other(1)),
    ] {
        assert!(!glanced(&frame, None), "{frame:?}");
    }
}

#[test]
fn merged_buffer_without_payload_is_one_packet() {
    let segment = ethernet(&FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK)).unwrap();
    assert_eq!(segment.packets(Gso { size: 1448, segments: 0 }), 1);
    assert_eq!(segment.bytes(1), 40);
}

fn address() -> impl Strategy<Value = (String, String)> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (
            std::net::Ipv4Addr::from(a).to_string(),
            std::net::Ipv4Addr::from(b).to_string()
        )),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (
            format!("[{}]", std::net::Ipv6Addr::from(a)),
            format!("[{}]", std::net::Ipv6Addr::from(b))
        )),
    ]
}

proptest! {
    #[test]
    fn parse_of_any_bytes_does_not_panic_or_overcount(
        frame in proptest::collection::vec(any::<u8>(), 0..200),
        ethertype in prop_oneof![Just(0x0800_u16), Just(0x86dd), any::<u16>()],
        ip in any::<bool>(),
    ) {
        let link = if ip { Link::Ip } else { Link::Ethernet };
        if let Ok(segment) = all(&frame, link, Metadata { ethertype, tag: None }) {
            prop_assert!(segment.length as usize <= frame.len());
            prop_assert!(segment.headers <= segment.length);
        }
    }

    #[test]
    fn fast_path_equals_slow_path(
        udp in any::<bool>(),
        ip in any::<bool>(),
        changes in proptest::collection::vec((0_usize..60, any::<u8>()), 0..3),
        length in 20_usize..80,
    ) {
        let frame = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK).payload(vec![7; 12]);
        let frame = if udp { frame.udp() } else { frame };
        let mut bytes = frame.with(|frame| frame.ethernet = !ip).build();
        for (place, value) in changes {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = value;
            }
        }
        bytes.truncate(length);
        let link = if ip { Link::Ip } else { Link::Ethernet };
        let _ = all(&bytes, link, Metadata { ethertype: 0x0800, tag: None });
    }

    #[test]
    fn headers_before_ports_do_not_change_counts(
        (from, to) in address(),
        tags in proptest::collection::vec(1_u16..4095, 0..=2),
        words in 0_usize..=10,
        extensions in proptest::collection::vec(prop_oneof![Just(0_u8), Just(43), Just(60)], 0..=6),
        tcp_words in 0_usize..=10,
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        padding in 0_usize..50,
    ) {
        let mut frame = FrameBuilder::tcp(&format!("{from}:40000"), &format!("{to}:25"), ACK);
        for tag in &tags {
            frame = frame.tag(0x8100, *tag);
        }
        let frame = frame.tcp_options(&vec![1; tcp_words * 4]).payload(payload.clone()).with(|frame| {
            frame.options = vec![1; words * 4];
            frame.extensions = extensions.iter().map(|kind| (*kind, short_extension())).collect();
            frame.padding = padding;
        });
        let segment = ethernet(&frame).unwrap();
        prop_assert_eq!(u64::from(segment.length), frame.ip_bytes());
        prop_assert_eq!(segment.payload() as usize, payload.len());
        prop_assert_eq!(segment.scope.vlans().tags().collect::<Vec<_>>(), tags);
    }
}
