//! Fragmented packets.

use std::{collections::HashMap, net::IpAddr};

use mailflow_common::Reason;
use mailflow_test_support::frame::{FrameBuilder, Transport, cut, flag::*, fragmented, short_extension};

use crate::{BOTH, CLIENT, CLIENT6, LoadOptions, SERVER, SERVER6, at, down, flows, load_with, options, run};

#[test]
fn fragments_belong_to_flow_of_first_fragment() {
    for program in BOTH {
        for (client, server) in [(CLIENT, SERVER), (CLIENT6, SERVER6)] {
            let fragments = fragmented(client, server, 7);
            let bytes: u64 = fragments.iter().map(FrameBuilder::ip_bytes).sum();
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 1, 0]] {
                let frames = order.map(|index| fragments[index].clone());
                let (flows, totals) = run(program, &frames);
                assert_eq!(flows.len(), 1, "{program} {order:?}");
                assert_eq!((flows[0].up.packets, flows[0].up.bytes), (3, bytes), "{program} {order:?}");
                assert_eq!((flows[0].up.payload, flows[0].up.data_packets), (1500, 3), "{program} {order:?}");
                assert_eq!((totals.up.packets, totals.up.bytes), (3, bytes));
                assert_eq!(totals.reason(Reason::Fragment), 0);
            }
        }
    }
}

#[test]
fn first_fragment_ending_in_header_is_counted() {
    let fragments = fragmented(CLIENT, SERVER, 7);
    // Ports and sequence number (RFC 1858, 3), then the flags.
    let tiny = fragments[0].clone().with(|frame| {
        frame.transport = Transport::Other(6);
        frame.payload = [&40_000_u16.to_be_bytes()[..], &25_u16.to_be_bytes(), &[0, 0, 0, 1]].concat();
    });
    let rest = fragments[1].clone().with(|frame| (frame.fragment, frame.payload) = (0x2001, vec![0; 24]));
    let frames = [tiny, rest, fragments[2].clone()];
    let bytes: u64 = frames.iter().map(FrameBuilder::ip_bytes).sum();
    for program in BOTH {
        for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
            let (flows, totals) = run(program, &order.map(|index| frames[index].clone()));
            assert_eq!(flows.len(), 1, "{program} {order:?}");
            assert_eq!((flows[0].up.packets, flows[0].up.bytes), (3, bytes), "{program} {order:?}");
            assert_eq!((totals.reason(Reason::Fragment), totals.reason(Reason::Truncated)), (0, 0));
        }
    }
}

#[test]
fn fragmented_message_counts_once_in_any_order() {
    let fragments = fragmented(CLIENT, SERVER, 7);
    let [greeting, answer] = ["220 mx\r\n", "250 Ok\r\n"].map(|text| down(ACK).payload(text));
    // Two of three fragments, each too small for a message.
    let small = |index: usize| fragments[index].clone().with(|frame| frame.payload.truncate(160));
    for program in BOTH {
        for order in [[0, 1], [1, 0]] {
            let frames = [greeting.clone(), small(order[0]), small(order[1]), answer.clone()];
            let (flows, _) = run(program, &frames);
            assert_eq!((flows[0].up.payload, flows[0].messages), (320, 1), "{program} {order:?}");
        }
    }
}

#[test]
fn fragments_of_unwatched_traffic_are_not_counted() {
    let options = LoadOptions { local_only: true, ..options() };
    let forwarded = {
        let mut context = [0; 192];
        context[36..40].copy_from_slice(&1_u32.to_ne_bytes());
        context
    };
    let out = fragmented(CLIENT, SERVER, 7);
    let back = fragmented(SERVER, CLIENT, 8);
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let kernel = load_with(&options);
        for index in order {
            kernel.run("tc_host_out", &out[index].build(), Some(&forwarded)).unwrap();
            kernel.run("tc_host_in", &back[index].build(), None).unwrap();
        }
        let totals = kernel.totals().unwrap();
        let counted = (totals.reason(Reason::NotLocal), totals.reason(Reason::Fragment));
        assert_eq!(counted, (6, 0), "{order:?}: none of it is lost");
    }
}

#[test]
fn fragments_of_other_packets_are_not_mixed() {
    let mine = fragmented(CLIENT, SERVER, 7);
    let others = fragmented(CLIENT, "93.184.215.25:8025", 8);
    for program in BOTH {
        // Not watched, in either order; fragments without a first fragment stay unassigned.
        let (flows, totals) =
            run(program, &[mine[0].clone(), others[1].clone(), others[0].clone(), others[2].clone()]);
        assert_eq!((flows.len(), flows[0].up.packets), (1, 1), "{program}");
        assert_eq!((totals.reason(Reason::NotWatched), totals.reason(Reason::Fragment)), (3, 0), "{program}");
        let (flows, totals) = run(program, &[mine[0].clone(), fragmented(CLIENT, SERVER, 9)[1].clone()]);
        assert_eq!((flows[0].up.packets, totals.reason(Reason::Fragment)), (1, 1), "{program}");
    }
    // If another hook counts the direction, it counts the fragments too.
    let (flows, totals) = run("tc_lan_out", &mine);
    assert_eq!((flows.len(), totals.reason(Reason::NotWatched)), (0, 3));
}

/// Packet, its fragments, and the order of their arrival.
struct Case {
    packet: FrameBuilder,
    pieces: Vec<FrameBuilder>,
    /// Length of the first fragment, without IP headers.
    first: usize,
    order: Vec<usize>,
}

/// Returns packets with each length of a TCP header, fragmented in and after the header, in each order.
fn cases() -> Vec<Case> {
    const PAYLOAD: usize = 30;
    let mut cases = Vec::new();
    let mut add = |v6: bool, words: usize, extension: bool, ends: &[usize], order: &[usize]| {
        let number = cases.len() as u16;
        let (client, server) = if v6 {
            (format!("[fd20::2]:{}", 10_000 + number), SERVER6)
        } else {
            (format!("10.20.0.2:{}", 10_000 + number), SERVER)
        };
        let mut packet = FrameBuilder::tcp(&client, server, FIN | ACK)
            .tcp_options(&vec![1; words * 4])
            .payload(vec![b'x'; PAYLOAD]);
        if extension {
            packet.extensions = vec![(60, short_extension())];
        }
        let pieces = cut(&packet, ends, number);
        let first = ends[0] - if extension { 8 } else { 0 };
        cases.push(Case { packet, pieces, first, order: order.to_vec() });
    };
    for v6 in [false, true] {
        for words in 0..=10 {
            let all = 20 + words * 4 + PAYLOAD;
            for first in (8..all).step_by(8) {
                for order in [[0, 1], [1, 0]] {
                    add(v6, words, false, &[first], &order);
                    if v6 && first >= 16 {
                        // After an extension header in the fragmentable part.
                        add(v6, words, true, &[first + 8], &order);
                    }
                }
            }
            // As many fragments as possible, of eight bytes.
            let ends: Vec<usize> = (8..all).step_by(8).collect();
            let forward: Vec<usize> = (0..=ends.len()).collect();
            let backward: Vec<usize> = forward.iter().rev().copied().collect();
            let amid: Vec<usize> = [&forward[1..4], &[0], &forward[4..]].concat();
            for order in [forward, backward, amid] {
                add(v6, words, false, &ends, &order);
            }
        }
    }
    cases
}

/// The header may continue in the second fragment (RFC 1858, 3). The first fragment always has the ports, and
/// so the flow.
#[test]
fn packet_fragmented_anywhere_is_counted_completely() {
    let cases = cases();
    for program in BOTH {
        let mut kernel = load_with(&crate::under_test::options(mailflow_kernel::Programs::One(program)));
        let mut shown = 0;
        for case in &cases {
            for piece in &case.order {
                kernel.set_now(at(1_000 + shown)).unwrap();
                kernel.run(program, &case.pieces[*piece].build(), None).unwrap();
                shown += 1;
            }
        }
        let totals = kernel.totals().unwrap();
        assert_eq!((totals.shown(), totals.up.packets), (shown, shown), "{program}: {:?}", totals.reasons);
        let flows: HashMap<(bool, u16), _> = flows(&mut kernel)
            .into_iter()
            .map(|flow| ((flow.key.scope.v6(), flow.key.client_port), flow))
            .collect();
        assert_eq!(flows.len(), cases.len(), "{program}");
        for case in &cases {
            let (ip, port) = case.packet.ends[0];
            let flow = &flows[&(matches!(ip, IpAddr::V6(_)), port)];
            let name = format!(
                "{program}: {} pieces, the first of {}, {:?}, {:?}",
                case.pieces.len(),
                case.first,
                case.order,
                case.packet
            );
            let bytes: u64 = case.pieces.iter().map(FrameBuilder::ip_bytes).sum();
            assert_eq!((flow.up.packets, flow.up.bytes), (case.pieces.len() as u64, bytes), "{name}");
            assert_eq!(flow.up.payload, case.packet.payload.len() as u64, "{name}");
            // The flags are in the fourteenth byte.
            assert_eq!(flow.facts.fin_up == 1, case.first >= 14, "{name}");
        }
    }
}

#[test]
fn syn_with_options_in_second_fragment_begins_flow() {
    let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    for program in BOTH {
        for (client, server) in [(CLIENT, SERVER), (CLIENT6, SERVER6)] {
            for first in [16, 24, 32] {
                let syn = FrameBuilder::tcp(client, server, SYN).sequence(99).tcp_options(&options);
                let mut frames = cut(&syn, &[first], 7);
                frames.push(FrameBuilder::tcp(client, server, ACK).sequence(100).payload("EHLO a\r\n"));
                let (flows, totals) = run(program, &frames);
                assert_eq!(flows.len(), 1, "{program} {first}: {:?}", totals.reasons);
                let flow = &flows[0];
                assert_eq!(
                    (flow.up.packets, flow.up.payload, flow.up.data_packets),
                    (3, 8, 1),
                    "{program} {first}"
                );
                let facts = (flow.facts.syn, flow.facts.first_payload_up);
                // The sequence number of the SYN identifies the first bytes.
                assert_eq!(facts, (1, mailflow_common::first_payload::SMTP), "{program} {first}");
            }
        }
    }
}
