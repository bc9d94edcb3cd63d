//! Starts of connections: retransmitted SYNs, servers that answer with a SYN, and MPTCP subflows.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use mailflow_common::{first_payload, seen};
use mailflow_engine::flow::Flow;
use mailflow_kernel::Kernel;
use mailflow_test_support::frame::{FrameBuilder, flag::*};

use crate::{BOTH, CLIENT, CLIENT6, SERVER, SERVER6, at, down, load, load_with, options, run, up};

/// Histories in one load of a program, each with its own client.
struct Histories {
    kernel: Kernel,
    program: Option<&'static str>,
    now: u64,
    names: Vec<String>,
}

impl Histories {
    /// Loads a program; `None` loads the programs of a gateway, whose directions pass different hooks.
    fn new(program: Option<&'static str>) -> Self {
        let kernel = program.map_or_else(|| load_with(&options()), load);
        Self { kernel, program, now: 1_000, names: Vec::new() }
    }

    /// Sends frames, each with its time after the first one.
    fn play(&mut self, name: &str, frames: &[(u64, FrameBuilder)]) {
        let number = self.names.len() as u16;
        self.names.push(name.to_owned());
        let mut last = 0;
        for (after, frame) in frames {
            let mut frame = frame.clone();
            let mut toward = false;
            for (side, end) in frame.ends.iter_mut().enumerate() {
                match &mut end.0 {
                    IpAddr::V4(ip) if ip.octets()[0] == 10 => *ip = (0x0a14_0000 | u32::from(number)).into(),
                    IpAddr::V6(ip) if ip.segments()[0] == 0xfd20 => {
                        *ip = [0xfd20, 0, 0, 0, 0, 0, 0, number].into()
                    }
                    _ => continue,
                }
                toward = side == 0;
            }
            self.kernel.set_now(at(self.now + after)).unwrap();
            let hook = if toward { "tc_lan_in" } else { "tc_lan_out" };
            self.kernel.run(self.program.unwrap_or(hook), &frame.build(), None).unwrap();
            last = *after;
        }
        self.now += last + 1;
    }

    /// Returns the flows of each history, in the order of their starts.
    fn end(mut self) -> Vec<(String, Vec<Flow>)> {
        let snapshot = self.kernel.snapshot(at(self.now + 1)).unwrap();
        let finished = snapshot.superseded.into_iter().map(|finished| finished.flow);
        let mut flows: HashMap<u16, Vec<Flow>> = HashMap::new();
        for flow in finished.chain(snapshot.flows) {
            let number = |ip: IpAddr| match ip {
                IpAddr::V4(ip) if ip.octets()[0] == 10 => {
                    Some(u16::from_be_bytes([ip.octets()[2], ip.octets()[3]]))
                }
                IpAddr::V6(ip) if ip.segments()[0] == 0xfd20 => Some(ip.segments()[7]),
                _ => None,
            };
            let number = number(flow.client()).or_else(|| number(flow.server())).unwrap();
            flows.entry(number).or_default().push(flow);
        }
        let program = self.program.unwrap_or("a gateway");
        let named = self.names.into_iter().enumerate().map(|(number, name)| {
            let mut flows = flows.remove(&(number as u16)).unwrap_or_default();
            flows.sort_by_key(|flow| flow.first);
            (format!("{program}: {name}"), flows)
        });
        named.collect()
    }

    /// Returns packets up and down of the flows of each history.
    fn packets(self) -> Vec<(String, Vec<(u64, u64)>)> {
        let packets = |flow: &Flow| (flow.up.packets, flow.down.packets);
        self.end().into_iter().map(|(name, flows)| (name, flows.iter().map(packets).collect())).collect()
    }
}

/// Returns the frames one millisecond apart.
fn soon(frames: &[FrameBuilder]) -> Vec<(u64, FrameBuilder)> {
    frames.iter().enumerate().map(|(number, frame)| (number as u64, frame.clone())).collect()
}

/// Flags ECN-Echo and Congestion Window Reduced (RFC 3168, 6.1.1).
const ECN: u8 = 0xc0;
/// TCP options: maximum segment size, timestamps, window scale.
const USUAL: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
/// MP_JOIN option of a SYN and of a SYN-ACK, MP_CAPABLE (RFC 8684, 3.1 and 3.2).
const JOIN: [u8; 12] = [30, 12, 0x10, 1, 0, 0, 0, 9, 0, 0, 0, 7];
const JOINED: [u8; 16] = [30, 16, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 7];
const CAPABLE: [u8; 4] = [30, 4, 0x01, 0x81];

/// Seconds of Linux's SYN retransmissions: `tcp_syn_retries` 6, and with 4 linear timeouts
/// (`tcp_syn_linear_timeouts`).
const LINUX: [u64; 7] = [0, 1, 3, 7, 15, 31, 63];
const LINEAR: [u64; 11] = [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67];

#[test]
fn retransmitted_syn_is_the_same_attempt() {
    let tag = |frame: FrameBuilder| frame.tag(0x8100, 7);
    let v6 = |flags| FrameBuilder::tcp(CLIENT6, SERVER6, flags).sequence(5);
    let syn = up(SYN).sequence(5);
    let kinds: [(&str, FrameBuilder, FrameBuilder); 5] = [
        ("IPv4", syn.clone(), syn.clone()),
        ("IPv6", v6(SYN), v6(SYN)),
        ("in a VLAN", tag(syn.clone()), tag(syn.clone())),
        ("ECN, then without (RFC 3168, 6.1.1.1)", up(SYN | ECN).sequence(5), syn.clone()),
        ("with data, then without (RFC 7413)", syn.clone().payload("EHLO a\r\n"), syn.clone()),
    ];
    // The SYN-ACK is lost behind the gateway: the server retransmits it, and the client retransmits its SYN.
    let lost = [
        (0, syn.clone()),
        (10, down(SYN | ACK).sequence(9)),
        (1_000, syn.clone()),
        (1_010, down(SYN | ACK).sequence(9)),
        (33_000, syn.clone()),
        (33_010, down(SYN | ACK).sequence(9)),
    ];
    for program in BOTH {
        let mut histories = Histories::new(Some(program));
        let mut expected = Vec::new();
        for (kind, first, again) in &kinds {
            for schedule in [&LINUX[..], &LINEAR, &[0, 63], &[0, 100], &[0, 63, 126]] {
                let frames = schedule.iter().enumerate().map(|(number, second)| {
                    (second * 1_000, if number == 0 { first.clone() } else { again.clone() })
                });
                histories.play(&format!("{kind}, {schedule:?}"), &frames.collect::<Vec<_>>());
                expected.push(vec![(schedule.len() as u64, 0)]);
            }
        }
        histories.play("the SYN-ACK was lost", &lost);
        expected.push(vec![(3, 3)]);
        for ((name, counted), expected) in histories.packets().into_iter().zip(expected) {
            assert_eq!(counted, expected, "{name}");
        }
    }
}

#[test]
fn syn_with_other_sequence_number_is_another_attempt() {
    for program in BOTH {
        let mut histories = Histories::new(Some(program));
        let mut expected = Vec::new();
        for gap in [1, 500, 40_000, 126_000] {
            let syn = |number: u64| (number * gap, up(SYN).sequence(5 + number as u32));
            histories.play(&format!("{gap} ms"), &[syn(0), syn(1)]);
            expected.push(vec![(1, 0), (1, 0)]);
            // The server's SYN-ACK to the first SYN is lost behind the gateway.
            let answer = (0, down(SYN | ACK).sequence(9));
            histories.play(&format!("answered, {gap} ms"), &[syn(0), answer, syn(1)]);
            expected.push(vec![(1, 1), (1, 0)]);
        }
        // A SYN-ACK before its SYN, as in some captures, belongs to that SYN.
        histories.play("the answer first", &[(0, down(SYN | ACK).sequence(9)), (0, up(SYN).sequence(5))]);
        expected.push(vec![(1, 1)]);
        for ((name, counted), expected) in histories.packets().into_iter().zip(expected) {
            assert_eq!(counted, expected, "{name}");
        }
    }
}

/// Returns simultaneous opens of both ends, in every order of their packets: A is the client, B the server.
fn opened_by_both(client: &str, server: &str) -> [(&'static str, Vec<FrameBuilder>); 4] {
    let a = |flags: u8, sequence: u32| FrameBuilder::tcp(client, server, flags).sequence(sequence);
    let b = |flags: u8, sequence: u32| FrameBuilder::tcp(server, client, flags).sequence(sequence);
    let session = [
        b(ACK | PSH, 501).payload("220 mx.example\r\n"),
        a(ACK | PSH, 100).payload("EHLO a\r\n"),
        b(ACK, 517),
        a(FIN | ACK, 108),
        b(FIN | ACK, 517),
    ];
    let then = |begin: Vec<FrameBuilder>| [&begin[..], &session].concat();
    [
        (
            "simultaneous (RFC 9293, figure 7)",
            then(vec![a(SYN, 99), b(SYN, 500), a(SYN | ACK, 99), b(SYN | ACK, 500)]),
        ),
        ("split in four", then(vec![a(SYN, 99), b(SYN, 500), a(SYN | ACK, 99), b(ACK, 501)])),
        ("split in five", then(vec![a(SYN, 99), b(ACK, 500), b(SYN, 500), a(SYN | ACK, 99), b(ACK, 501)])),
        (
            "with SYNs that are sent again",
            then(vec![
                a(SYN, 99),
                b(SYN, 500),
                a(SYN, 99),
                b(SYN, 500),
                a(SYN | ACK, 99),
                b(SYN | ACK, 500),
                a(SYN | ACK, 99),
            ]),
        ),
    ]
}

/// Checks that a history is one flow of its client, which sent the first of these frames.
fn assert_one(name: &str, flows: &[Flow], client_port: u16, frames: &[FrameBuilder]) {
    assert_eq!(flows.len(), 1, "{name}: {flows:?}");
    let flow = &flows[0];
    let began = frames[0].ends[0];
    let sent = frames.iter().filter(|frame| frame.ends[0] == began).count() as u64;
    assert_eq!((flow.key.client_port, flow.key.server_port), (client_port, 25), "{name}");
    assert_eq!((flow.up.packets, flow.down.packets), (sent, frames.len() as u64 - sent), "{name}");
    let facts = flow.facts;
    assert_eq!(
        (facts.syn, facts.syn_ack, facts.fin_up, facts.fin_down, facts.reset),
        (1, 1, 1, 1, 0),
        "{name}"
    );
    assert_eq!(
        (facts.first_payload_up, facts.first_payload_down),
        (first_payload::SMTP, first_payload::SMTP),
        "{name}"
    );
}

#[test]
fn simultaneous_open_is_one_flow_of_first_sender() {
    for program in [Some(BOTH[0]), Some(BOTH[1]), Some(BOTH[2]), None] {
        let mut histories = Histories::new(program);
        let mut played = Vec::new();
        // With both ports watched, too.
        for (client, server) in [(CLIENT, SERVER), (CLIENT6, SERVER6), ("10.20.0.2:587", SERVER)] {
            for (name, frames) in opened_by_both(client, server) {
                histories.play(&format!("{client}, {name}"), &soon(&frames));
                played.push((client.parse::<SocketAddr>().unwrap().port(), frames));
            }
        }
        for (name, frames) in opened_by_both(CLIENT, SERVER) {
            for tagged_up in [false, true] {
                // A mirror that shows the tags of only one direction.
                let tagged = |frame: &FrameBuilder| (frame.ends[1].1 == 25) == tagged_up;
                let frames: Vec<_> = frames
                    .iter()
                    .map(|frame| if tagged(frame) { frame.clone().tag(0x8100, 7) } else { frame.clone() })
                    .collect();
                histories.play(&format!("{name}, tagged up {tagged_up}"), &soon(&frames));
                played.push((40_000, frames));
            }
        }
        for ((name, flows), (client_port, frames)) in histories.end().into_iter().zip(played) {
            assert_one(&name, &flows, client_port, &frames);
        }
    }
}

#[test]
fn simultaneous_open_seen_in_one_direction_is_one_flow() {
    for program in BOTH {
        let mut histories = Histories::new(Some(program));
        let mut expected = Vec::new();
        for (name, frames) in opened_by_both(CLIENT, SERVER) {
            let up: Vec<_> = frames.into_iter().filter(|frame| frame.ends[1].1 == 25).collect();
            histories.play(name, &soon(&up));
            expected.push(vec![(up.len() as u64, 0)]);
        }
        for ((name, counted), expected) in histories.packets().into_iter().zip(expected) {
            assert_eq!(counted, expected, "{name}");
        }
    }
}

#[test]
fn syn_after_close_begins_another_flow() {
    // A port is reused in the other direction.
    let closing: [&[FrameBuilder]; 2] = [
        &[down(RST | ACK)],
        &[down(SYN | ACK).sequence(9), up(ACK).sequence(6), up(FIN | ACK), down(FIN | ACK)],
    ];
    for program in BOTH {
        let mut histories = Histories::new(Some(program));
        for closing in closing {
            let frames = [&[up(SYN).sequence(5)], closing, &[down(SYN).sequence(77)]].concat();
            histories.play(&format!("after {} packets", closing.len()), &soon(&frames));
        }
        for (name, flows) in histories.end() {
            let counted: Vec<_> = flows.iter().map(|flow| (flow.key.server_port, flow.facts.syn)).collect();
            assert_eq!(counted, [(25, 1), (40_000, 1)], "{name}");
        }
    }
}

#[test]
fn server_syn_joins_flow_only_within_syn_retransmission_period() {
    const LAST: u64 = 127_000;
    for program in BOTH {
        let mut histories = Histories::new(Some(program));
        // With both ports watched, and with the client's flow as the second one of its 5-tuple, too.
        for client in [CLIENT, "10.20.0.2:587"] {
            let a = |flags: u8, sequence: u32| FrameBuilder::tcp(client, SERVER, flags).sequence(sequence);
            let b = |flags: u8, sequence: u32| FrameBuilder::tcp(SERVER, client, flags).sequence(sequence);
            for (after, again) in [(LAST, false), (LAST + 20, false), (LAST, true), (LAST + 20, true)] {
                let mut frames = vec![(0, a(SYN, 5)), (1, b(SYN | ACK, 9)), (2, a(ACK, 6))];
                if again {
                    let earlier = [(0, a(SYN, 3)), (1, b(RST | ACK, 0))];
                    frames.iter_mut().for_each(|frame| frame.0 += 6_000);
                    frames.splice(0..0, earlier);
                }
                let begun = if again { 6_000 } else { 0 };
                frames.push((begun + after, b(SYN, 77)));
                histories.play(&format!("{client}, {again}, {after}"), &frames);
            }
        }
        for (name, flows) in histories.end() {
            let counted: Vec<_> = flows.iter().map(|flow| flow.key.server_port).collect();
            let again = usize::from(name.contains("true"));
            assert_eq!(counted[..=again], [25, 25][..=again], "{name}");
            assert_eq!(counted.len() - 1 - again, usize::from(name.ends_with("020")), "{name}: {counted:?}");
        }
    }
}

/// Returns the packets of a flow with these options in its SYN and SYN-ACK, and the server's first bytes.
fn joining(v6: bool, options: [&[u8]; 2], greeting: &str) -> Vec<(u64, FrameBuilder)> {
    let (client, server) = if v6 { (CLIENT6, SERVER6) } else { (CLIENT, SERVER) };
    soon(&[
        FrameBuilder::tcp(client, server, SYN).sequence(99).tcp_options(options[0]),
        FrameBuilder::tcp(server, client, SYN | ACK).sequence(499).tcp_options(options[1]),
        FrameBuilder::tcp(client, server, ACK).sequence(100),
        FrameBuilder::tcp(server, client, ACK | PSH).sequence(500).payload(greeting),
    ])
}

#[test]
fn mptcp_subflow_is_recognised_by_its_syn() {
    let padded = |before: &[u8], join: &[u8]| {
        let all = [before, join].concat();
        [&all[..], &vec![1; (4 - all.len() % 4) % 4]].concat()
    };
    let amid = "x 220 is what the other path said";
    for program in BOTH {
        let mut histories = Histories::new(Some(program));
        let mut expected = Vec::new();
        let mut play = |name: &str, frames: &[(u64, FrameBuilder)], subflow: bool| {
            histories.play(name, frames);
            expected.push(subflow);
        };
        for v6 in [false, true] {
            // Also after other options, and unaligned.
            for before in [&[][..], &USUAL, &[1], &[1, 1, 1], &[1; 28], &[2, 4, 5, 0xb4, 3, 3, 7]] {
                let [syn, answer] = [padded(before, &JOIN), padded(before, &JOINED)];
                let answer = if answer.len() > 40 { JOINED.to_vec() } else { answer };
                play(&format!("behind {before:?}"), &joining(v6, [&syn, &answer], amid), true);
            }
            for (options, what) in [
                (USUAL.to_vec(), "none"),
                (CAPABLE.to_vec(), "MP_CAPABLE"),
                ([&[0, 0, 0, 0][..], &JOIN].concat(), "behind the end of the options"),
                (padded(&[2, 30], &JOIN), "inside another option"),
                (padded(&[5, 1], &JOIN), "behind an option of no length"),
                (vec![30, 2, 0x10, 0x10], "too short"),
                (vec![30, 8, 0x10, 0, 0, 0, 0, 0], "of another length"),
                (vec![1, 1, 30, 12], "cut off"),
            ] {
                play(what, &joining(v6, [&options, &JOINED], amid), false);
            }
            // A server without MPTCP: an ordinary session that counts.
            play("a greeting", &joining(v6, [&JOIN, &USUAL], "220 mx.example ESMTP\r\n"), false);
        }
        // Without an answer, and with payload in the SYN.
        let syn = padded(&USUAL, &JOIN);
        play("unanswered", &[(0, up(SYN).tcp_options(&syn))], true);
        play("with data", &[(0, up(SYN).tcp_options(&syn).payload("abcd"))], true);
        for ((name, flows), subflow) in histories.end().into_iter().zip(expected) {
            assert_eq!((flows.len(), flows[0].facts.subflow()), (1, subflow), "{name}");
            let agreed = flows[0].facts.seen & seen::MPTCP_JOINED != 0;
            assert_eq!(agreed, subflow && flows[0].down.packets > 0, "{name}");
        }
    }
}

#[test]
fn syn_ack_may_carry_first_payload() {
    // RFC 7413: the SYN-ACK may carry payload, as the SYN may.
    let frames =
        [up(SYN).sequence(99).payload("EHLO a\r\n"), down(SYN | ACK).sequence(499).payload("220 mx\r\n")];
    for program in BOTH {
        let (flows, _) = run(program, &frames);
        let facts = flows[0].facts;
        assert_eq!(
            (facts.first_payload_up, facts.first_payload_down),
            (first_payload::SMTP, first_payload::SMTP),
            "{program}"
        );
    }
}
