//! Loaded program, through BPF_PROG_TEST_RUN: frames in, counters out.

mailflow_test_support::needs_root!();

mod buckets;
mod fragments;
mod handshakes;
mod overflow;
#[path = "../../common/under_test.rs"]
mod under_test;

use mailflow_common::{Reason, Totals, first_payload, upgrade};
use mailflow_engine::{
    flow::{EvictOutcome, Flow},
    time::Time,
};
use mailflow_kernel::{Kernel, LoadOptions, Programs};
use mailflow_test_support::frame::{FrameBuilder, Transport, flag::*, short_extension};

const CLIENT: &str = "10.20.0.2:40000";
const SERVER: &str = "93.184.215.25:25";
const CLIENT6: &str = "[fd20::2]:40000";
const SERVER6: &str = "[2a00:1450::25]:25";

/// Watched ports.
const PORTS: [u16; 5] = [25, 465, 587, 994, 2525];

fn load_with(options: &LoadOptions) -> Kernel {
    under_test::load(options, &PORTS).unwrap_or_else(|error| panic!("{error}"))
}

fn options() -> LoadOptions {
    under_test::options(Programs::All)
}

fn load(program: &'static str) -> Kernel {
    load_with(&under_test::options(Programs::One(program)))
}

/// Returns a time of the test's clock.
fn at(milliseconds: u64) -> Time {
    Time::from_nanos(milliseconds * 1_000_000)
}

fn flows(kernel: &mut Kernel) -> Vec<Flow> {
    let snapshot = kernel.snapshot(at(1_000_000)).unwrap();
    assert_eq!((snapshot.superseded, snapshot.overflow), (vec![], vec![]));
    snapshot.flows
}

/// Runs frames through a program and returns flows and totals.
fn run(program: &'static str, frames: &[FrameBuilder]) -> (Vec<Flow>, Totals) {
    let mut kernel = load(program);
    for (index, frame) in frames.iter().enumerate() {
        kernel.set_now(at(1000 + index as u64)).unwrap();
        let frame = frame.build();
        let verdict = kernel.run(program, &frame, None).unwrap();
        let pass = if program.starts_with("xdp") { 2 } else { u32::MAX };
        assert_eq!(verdict, pass, "{program} must let every packet pass");
    }
    let totals = kernel.totals().unwrap();
    assert_eq!(totals.shown(), frames.len() as u64, "{program}: a packet in no counter, or in two");
    (flows(&mut kernel), totals)
}

fn up(flags: u8) -> FrameBuilder {
    FrameBuilder::tcp(CLIENT, SERVER, flags)
}

fn down(flags: u8) -> FrameBuilder {
    FrameBuilder::tcp(SERVER, CLIENT, flags)
}

/// Mirror programs, which count both directions: the whole counter behind one entry point.
const BOTH: [&str; 3] = ["xdp_mirror", "xdp_mirror_frags", "tc_mirror"];

#[test]
fn session_is_one_flow_with_exact_counts() {
    let frames = [
        up(SYN).sequence(99).tcp_options(&[2, 4, 5, 0xb4]),
        down(SYN | ACK).sequence(499),
        up(ACK).sequence(100).with(|frame| frame.padding = 6),
        down(ACK | PSH).sequence(500).payload("220 mx.example ESMTP\r\n"),
        up(ACK | PSH).sequence(100).payload("EHLO client.example\r\n"),
        up(ACK | PSH).sequence(121).payload(vec![b'x'; 400]),
        down(ACK | PSH).sequence(522).payload("250 2.0.0 Ok: queued\r\n"),
        up(FIN | ACK).sequence(521),
        down(FIN | ACK).sequence(544),
    ];
    for program in BOTH {
        let (flows, totals) = run(program, &frames);
        assert_eq!(flows.len(), 1, "{program}");
        let flow = &flows[0];
        let sum = |from_client: bool| -> (u64, u64) {
            let side = frames.iter().filter(|frame| (frame.ends[1].1 == 25) == from_client);
            side.fold((0, 0), |(packets, bytes), frame| (packets + 1, bytes + frame.ip_bytes()))
        };
        assert_eq!((flow.up.packets, flow.up.bytes), sum(true), "{program}");
        assert_eq!((flow.down.packets, flow.down.bytes), sum(false), "{program}");
        assert_eq!((totals.up.packets, totals.up.bytes), sum(true), "{program}");
        assert_eq!((flow.up.payload, flow.up.data_packets, flow.up.data_bytes), (421, 2, 501));
        assert_eq!((flow.down.payload, flow.down.data_packets, flow.down.data_bytes), (44, 2, 124));
        assert_eq!((flow.client().to_string(), flow.key.client_port), ("10.20.0.2".to_owned(), 40_000));
        assert_eq!((flow.server().to_string(), flow.key.server_port), ("93.184.215.25".to_owned(), 25));
        assert_eq!((flow.first, flow.last()), (at(1000), at(1008)));
        assert_eq!(flow.mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(flow.messages, 1, "{program}: 421 bytes, then an answer of 22");
        let facts = flow.facts;
        assert_eq!((facts.syn, facts.syn_ack, facts.fin_up, facts.fin_down, facts.reset), (1, 1, 1, 1, 0));
        assert_eq!(
            (facts.first_payload_up, facts.first_payload_down, facts.seen),
            (first_payload::SMTP, first_payload::SMTP, 1)
        );
    }
}

#[test]
fn role_counts_each_direction_at_one_hook() {
    let session = [up(SYN), down(SYN | ACK), up(ACK)];
    for (program, expected) in [
        ("xdp_lan", (2, 0)),
        ("xdp_lan_frags", (2, 0)),
        ("tc_lan_in", (2, 0)),
        ("tc_lan_out", (0, 1)),
        ("xdp_host", (0, 1)),
        ("xdp_host_frags", (0, 1)),
        ("tc_host_in", (0, 1)),
        ("tc_host_out", (2, 0)),
        ("tc_mirror", (2, 1)),
    ] {
        let (flows, totals) = run(program, &session);
        assert_eq!((flows[0].up.packets, flows[0].down.packets), expected, "{program}");
        let other_side = 3 - expected.0 - expected.1;
        assert_eq!(totals.reason(Reason::NotWatched), other_side, "{program}");
    }
}

#[test]
fn options_extensions_and_tags_change_no_count() {
    let v6 = |flags| FrameBuilder::tcp(CLIENT6, SERVER6, flags);
    let extensions = |kinds: &[u8]| kinds.iter().map(|kind| (*kind, short_extension())).collect();
    let frames = [
        up(ACK).with(|frame| frame.options = vec![1; 40]).payload("x"),
        up(ACK).tcp_options(&[1; 40]).payload("x"),
        v6(SYN),
        v6(ACK).with(|frame| frame.extensions = extensions(&[0, 60, 43, 60])).payload("y"),
        v6(ACK).with(|frame| frame.extensions = vec![(44, vec![0; 7])]).payload("y"),
        v6(ACK).with(|frame| frame.extensions = vec![(51, [vec![4], vec![0; 22]].concat())]).payload("y"),
        up(ACK).tag(0x8100, 7),
        up(ACK).tag(0x88a8, 9).tag(0x8100, 8),
        v6(ACK).tag(0x9100, 9).tag(0x8100, 8).with(|frame| frame.extensions = extensions(&[0, 60])),
        up(ACK).tag(0x8100, 0xe000),
    ];
    for program in BOTH {
        let (mut flows, totals) = run(program, &frames);
        flows.sort_by_key(|flow| (flow.client(), flow.key.scope.vlans().tags().collect::<Vec<_>>()));
        let seen: Vec<(Vec<u16>, u64, u64)> = flows
            .iter()
            .map(|flow| (flow.key.scope.vlans().tags().collect(), flow.up.packets, flow.up.bytes))
            .collect();
        let bytes = |indexes: &[usize]| indexes.iter().map(|index| frames[*index].ip_bytes()).sum::<u64>();
        let expected = [
            (vec![], 3, bytes(&[0, 1, 9])),
            (vec![7], 1, bytes(&[6])),
            (vec![9, 8], 1, bytes(&[7])),
            (vec![], 4, bytes(&[2, 3, 4, 5])),
            (vec![9, 8], 1, bytes(&[8])),
        ];
        assert_eq!(seen, expected, "{program}");
        assert_eq!(totals.up.bytes, frames.iter().map(FrameBuilder::ip_bytes).sum::<u64>());
    }
}

#[test]
fn uncounted_packets_have_a_reason() {
    let v6 = FrameBuilder::tcp(CLIENT6, SERVER6, ACK);
    let deep: Vec<_> = (0..8).map(|_| (60, short_extension())).collect();
    let cases: Vec<(Reason, FrameBuilder)> = vec![
        (Reason::NotWatched, FrameBuilder::tcp(CLIENT, "93.184.215.25:8025", SYN)),
        (Reason::NotWatched, FrameBuilder::tcp(CLIENT, "93.184.215.25:4789", SYN)),
        (Reason::UdpTunnel, FrameBuilder::tcp(CLIENT, "93.184.215.25:4789", 0).udp()),
        (Reason::UdpTunnel, FrameBuilder::tcp(CLIENT, "93.184.215.25:2152", 0).udp()),
        (Reason::UdpTunnel, FrameBuilder::tcp(CLIENT6, "[2a00::1]:6081", 0).udp()),
        (Reason::UdpTunnel, FrameBuilder::tcp("10.20.0.2:53", "93.184.215.25:8472", 0).udp().tag(0x8100, 7)),
        (Reason::NotTransport, up(0).with(|frame| frame.transport = Transport::Other(1))),
        (Reason::Tunnel, up(0).with(|frame| frame.transport = Transport::Other(47))),
        (Reason::Malformed, up(ACK).with(|frame| frame.options = vec![0; 0]).with(bad_offset)),
        (Reason::Malformed, up(ACK).with(|frame| frame.length = Some(30))),
        (Reason::ForgedLength, up(ACK).with(|frame| frame.length = Some(1400))),
        (Reason::ForgedLength, v6.clone().with(|frame| frame.length = Some(1400))),
        (Reason::TooDeep, v6.clone().with(|frame| frame.extensions = deep.clone())),
        (Reason::TooDeep, up(ACK).tag(0x88a8, 1).tag(0x8100, 2).tag(0x8100, 3)),
        (Reason::Fragment, up(ACK).with(|frame| frame.fragment = 100)),
        (Reason::Fragment, v6.clone().with(|frame| frame.extensions = vec![(44, vec![0, 1, 0, 0, 0, 0, 7])])),
    ];
    for program in BOTH {
        for (reason, frame) in &cases {
            let (flows, totals) = run(program, std::slice::from_ref(frame));
            assert_eq!((flows.len(), totals.reason(*reason)), (0, 1), "{program}, {reason:?}: {totals:?}");
        }
    }
}

fn bad_offset(frame: &mut FrameBuilder) {
    if let Transport::Tcp { offset, .. } = &mut frame.transport {
        *offset = Some(4);
    }
}

#[test]
fn frames_without_ip_or_truncated_have_a_reason() {
    let arp = [vec![0xff; 6], vec![2; 6], vec![0x08, 0x06], vec![0; 46]].concat();
    let mpls = [vec![2; 12], vec![0x88, 0x47], vec![0; 46]].concat();
    let carrier = |kind: u16| [vec![2; 12], kind.to_be_bytes().to_vec(), vec![0; 46]].concat();
    let whole = up(ACK).build();
    for program in BOTH {
        for (reason, frame) in [
            (Reason::NotIp, arp.as_slice()),
            (Reason::Mpls, &mpls),
            (Reason::LinkTunnel, &carrier(0x8903)),
            (Reason::LinkTunnel, &carrier(0x88e7)),
            (Reason::LinkTunnel, &carrier(0x8926)),
            (Reason::Truncated, &whole[..14 + 10]),
            (Reason::ForgedLength, &whole[..14 + 30]),
        ] {
            if program.starts_with("tc") && frame.len() < 14 + 20 {
                continue; // BPF_PROG_TEST_RUN itself refuses such a frame
            }
            let kernel = load(program);
            kernel.run(program, frame, None).unwrap();
            let totals = kernel.totals().unwrap();
            assert_eq!((totals.shown(), totals.reason(reason)), (1, 1), "{program}, {reason:?}: {totals:?}");
        }
    }
}

/// Returns a `struct __sk_buff` with this segmentation metadata: gso_segs at 164, gso_size at 176.
fn skb(gso_segments: u32, gso_size: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[164..168].copy_from_slice(&gso_segments.to_ne_bytes());
    context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
    context
}

#[test]
fn merged_buffer_counts_its_packets() {
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let frame = up(ACK).tcp_options(&timestamps).payload(vec![0; 3000]);
    for (segments, size, packets) in [(3, 1448, 3), (0, 1448, 3), (0, 1500, 2), (0, 0, 1), (2, 1500, 2)] {
        let mut kernel = load("tc_lan_in");
        kernel.run("tc_lan_in", &frame.build(), Some(&skb(segments, size))).unwrap();
        let flow = &flows(&mut kernel)[0];
        assert_eq!(flow.up.packets, packets, "{segments} segments of {size}");
        assert_eq!(flow.up.bytes, 3000 + 52 * packets, "{segments} segments of {size}");
        assert_eq!((flow.up.payload, flow.up.data_packets), (3000, packets));
        assert_eq!(kernel.totals().unwrap().up.packets, packets);
    }
}

#[test]
fn host_with_lan_counts_only_local_packets() {
    let options = LoadOptions { local_only: true, ..options() };
    let mut forwarded = [0; 192];
    // ingress_ifindex at 36
    forwarded[36..40].copy_from_slice(&1_u32.to_ne_bytes());
    let mut kernel = load_with(&options);
    kernel.run("tc_host_out", &up(SYN).build(), Some(&forwarded)).unwrap();
    kernel.run("tc_host_in", &down(SYN | ACK).build(), None).unwrap();
    assert!(flows(&mut kernel).is_empty());
    assert_eq!(kernel.totals().unwrap().reason(Reason::NotLocal), 2);
    kernel.run("tc_host_out", &up(SYN).build(), Some(&[0; 192])).unwrap();
    kernel.run("tc_host_in", &down(SYN | ACK).build(), None).unwrap();
    let flow = &flows(&mut kernel)[0];
    assert_eq!((flow.up.packets, flow.down.packets), (1, 1));
    // A host interface without a LAN counts every packet that passes it.
    let mut kernel = load("tc_host_out");
    kernel.run("tc_host_out", &up(SYN).build(), Some(&forwarded)).unwrap();
    assert_eq!(flows(&mut kernel).len(), 1);
}

#[test]
fn multi_buffer_frame_is_counted_completely() {
    let frame = up(ACK).payload(vec![0; 8_900]);
    let (flows, totals) = run("xdp_mirror_frags", std::slice::from_ref(&frame));
    assert_eq!(flows.len(), 1, "{totals:?}");
    assert_eq!((flows[0].up.packets, flows[0].up.bytes), (1, frame.ip_bytes()));
    let forged = frame.with(|frame| frame.length = Some(9_000));
    let (_, totals) = run("xdp_mirror_frags", &[forged]);
    assert_eq!(totals.reason(Reason::ForgedLength), 1);
}

#[test]
fn syn_decides_the_client() {
    // Both ports are watched: without a SYN the hook decides, otherwise the SYN does.
    let syn = FrameBuilder::tcp("10.20.0.2:587", SERVER, SYN);
    let answer = FrameBuilder::tcp(SERVER, "10.20.0.2:587", SYN | ACK);
    let late = FrameBuilder::tcp(SERVER, "10.20.0.2:587", ACK);
    for program in BOTH {
        let (flows, _) = run(program, &[syn.clone(), answer.clone(), late.clone()]);
        assert_eq!(flows.len(), 1, "{program}");
        assert_eq!((flows[0].key.server_port, flows[0].up.packets, flows[0].down.packets), (25, 1, 2));
        let (flows, _) = run(program, std::slice::from_ref(&answer));
        assert_eq!((flows[0].key.server_port, flows[0].down.packets), (25, 1), "{program}: SYN-ACK alone");
        let (flows, _) = run(program, std::slice::from_ref(&late));
        assert_eq!((flows[0].key.server_port, flows[0].down.packets), (25, 1), "{program}: the lower port");
        assert_eq!((flows[0].facts.syn, flows[0].facts.seen), (0, 1));
    }
    let (flows, _) = run("tc_lan_in", &[FrameBuilder::tcp(SERVER, "10.20.0.2:587", ACK)]);
    assert_eq!((flows[0].key.server_port, flows[0].up.packets), (587, 1), "lan ingress is up");
    let (flows, _) = run("tc_lan_out", &[FrameBuilder::tcp("10.20.0.2:587", SERVER, ACK)]);
    assert_eq!((flows[0].key.server_port, flows[0].down.packets), (587, 1), "lan egress is down");
}

#[test]
fn first_bytes_give_the_application() {
    let session = |client: &[u8], server: &[u8], client_first: bool| {
        let up = up(ACK | PSH).sequence(100).payload(client);
        let down = down(ACK | PSH).sequence(500).payload(server);
        let mut frames = vec![self::up(SYN).sequence(99), self::down(SYN | ACK).sequence(499)];
        frames.extend(if client_first { [up, down] } else { [down, up] });
        frames
    };
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc];
    for (frames, expected) in [
        (session(b"EHLO a\r\n", b"220-mx\r\n", false), (first_payload::SMTP, first_payload::SMTP)),
        (session(b"helo a\r\n", b"554 no\r\n", false), (first_payload::SMTP, first_payload::SMTP)),
        (session(b"QUIT\r\n", b"421 busy\r\n", false), (first_payload::UNREAD, first_payload::SMTP)),
        (session(b"CAPA\r\n", b"+OK ready\r\n", false), (first_payload::UNREAD, first_payload::POP3)),
        (session(b"a1 NOOP\r\n", b"* OK ready\r\n", false), (first_payload::UNREAD, first_payload::IMAP)),
        (session(&hello, &hello, true), (first_payload::TLS, first_payload::TLS)),
        (
            session(b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", true),
            (first_payload::OTHER, first_payload::OTHER),
        ),
        (session(b"SSH-2.0-x\r\n", b"SSH-2.0-y\r\n", false), (first_payload::UNREAD, first_payload::OTHER)),
        (session(b"PROXY TCP4\r\n", b"220 mx\r\n", true), (first_payload::OTHER, first_payload::SMTP)),
        (session(b"QU", b"22", false), (first_payload::UNREAD, first_payload::UNREAD)),
    ] {
        for program in BOTH {
            let (flows, _) = run(program, &frames);
            let facts = flows[0].facts;
            assert_eq!((facts.first_payload_up, facts.first_payload_down), expected, "{program}: {frames:?}");
        }
    }
}

#[test]
fn late_server_payload_still_counts_messages() {
    // More packets than are inspected: the session is seen from its middle, in a long upload.
    let mut frames = vec![up(ACK).payload(vec![b'x'; 1000]); 20];
    frames.push(down(ACK).payload("250 2.0.0 Ok: queued\r\n"));
    for _ in 0..3 {
        frames.push(up(ACK).payload(vec![b'x'; 300]));
        frames.push(down(ACK).payload("250 2.0.0 Ok: queued\r\n"));
    }
    for program in BOTH {
        let (flows, _) = run(program, &frames);
        assert_eq!(flows[0].messages, 3, "{program}: the first packet after the client's answers none");
        assert_eq!(flows[0].facts.first_payload_down, first_payload::UNREAD, "{program}");
        let datagrams: Vec<_> = frames.iter().map(|frame| frame.clone().udp()).collect();
        let (flows, _) = run(program, &datagrams);
        assert_eq!(
            (flows[0].messages, flows[0].facts.first_payload_up),
            (3, first_payload::UNREAD),
            "{program}, UDP"
        );
    }
}

#[test]
fn starttls_needs_following_tls() {
    let command = up(ACK | PSH).payload("STARTTLS\r\n");
    let hello = up(ACK | PSH).payload([22, 3, 1, 2, 0, 1, 0, 1, 0xfc]);
    for program in BOTH {
        let (flows, _) = run(program, std::slice::from_ref(&command));
        assert_eq!(flows[0].facts.upgrade, upgrade::ASKED, "{program}");
        let (flows, _) = run(program, &[command.clone(), hello.clone()]);
        assert_eq!(flows[0].facts.upgrade, upgrade::FOLLOWED, "{program}");
        let imap = up(ACK | PSH).payload("a00001 starttls\r\n");
        let (flows, _) = run(program, &[imap, hello.clone()]);
        assert_eq!(flows[0].facts.upgrade, upgrade::FOLLOWED, "{program}");
        let (flows, _) = run(program, std::slice::from_ref(&hello));
        assert_eq!(flows[0].facts.upgrade, upgrade::NONE, "{program}");
    }
}

#[test]
fn udp_is_counted_separately() {
    let frames = [up(SYN), up(0).udp().payload("abcd")];
    for program in BOTH {
        let (mut flows, _) = run(program, &frames);
        flows.sort_by_key(|flow| flow.key.scope.protocol());
        assert_eq!(flows.len(), 2, "{program}");
        assert_eq!((flows[1].key.scope.protocol(), flows[1].up.bytes, flows[1].up.payload), (17, 32, 4));
    }
}

#[test]
fn interfaces_without_ethernet_have_own_entry_points() {
    // BPF_PROG_TEST_RUN always reads an ethertype at byte 12. An IP header has its source address there:
    // 8.0.0.0/16 reads as IPv4's ethertype.
    let packet = FrameBuilder::tcp("8.0.0.2:40000", SERVER, SYN).with(|frame| frame.ethernet = false);
    for (program, counts) in [
        ("tc_lan_in_ip", true),
        ("tc_lan_out_ip", false),
        ("tc_host_in_ip", false),
        ("tc_host_out_ip", true),
        ("tc_mirror_ip", true),
    ] {
        let (flows, totals) = run(program, std::slice::from_ref(&packet));
        assert_eq!(flows.len(), usize::from(counts), "{program}: {totals:?}");
        for flow in flows {
            assert_eq!((flow.up.bytes, flow.mac), (packet.ip_bytes(), None), "{program}");
        }
    }
}

#[test]
fn kernel_clock_is_monotonic_clock() {
    let mut kernel = load_with(&LoadOptions { flows: 8, external_clock: false, ..options() });
    let before = mailflow_kernel::clock::now();
    kernel.run("tc_lan_in", &up(SYN).build(), None).unwrap();
    let after = mailflow_kernel::clock::now();
    let flow = kernel.snapshot(after).unwrap().flows[0].clone();
    // Two ticks of the slowest kernel.
    let slack = std::time::Duration::from_millis(20);
    assert!(flow.first + slack >= before && flow.first <= after + slack, "{before:?} {flow:?} {after:?}");
    assert_eq!(flow.up.last, Some(flow.first));
}

/// Returns a short session that starts at `begin` with this sequence number, closed or not.
fn session(begin: u64, sequence: u32, closed: bool) -> Vec<(u64, FrameBuilder)> {
    let mut frames = vec![
        (begin, up(SYN).sequence(sequence)),
        (begin + 10, down(SYN | ACK).sequence(500)),
        (begin + 20, down(ACK).sequence(501).payload("220 mx\r\n")),
        (begin + 30, up(ACK).sequence(sequence.wrapping_add(1)).payload("EHLO a\r\n")),
    ];
    if closed {
        frames.push((begin + 40, up(FIN | ACK)));
        frames.push((begin + 50, down(FIN | ACK)));
    }
    frames
}

/// Returns packets up and down of each flow of a history: superseded flows, then the live one.
fn told_apart(program: &'static str, history: &[(u64, FrameBuilder)]) -> Vec<(u64, u64)> {
    let mut kernel = load(program);
    for (time, frame) in history {
        kernel.set_now(at(*time)).unwrap();
        kernel.run(program, &frame.build(), None).unwrap();
    }
    let snapshot = kernel.snapshot(at(history.last().unwrap().0)).unwrap();
    let finished = snapshot.superseded.iter().map(|finished| &finished.flow);
    let flows: Vec<&Flow> = finished.chain(&snapshot.flows).collect();
    for flow in &flows {
        assert_eq!(flow.up.last.is_some(), flow.up.packets != 0);
        assert_eq!(flow.down.last.is_some(), flow.down.packets != 0);
    }
    let counted: Vec<_> = flows.iter().map(|flow| (flow.up.packets, flow.down.packets)).collect();
    let total = kernel.totals().unwrap();
    let sum = counted.iter().fold((0, 0), |sum, flow| (sum.0 + flow.0, sum.1 + flow.1));
    assert_eq!(sum, (total.up.packets, total.down.packets), "no packet is in two flows or in none");
    counted
}

#[test]
fn reused_tuple_begins_another_flow() {
    let after = |first: bool, gap: u64, sequence: u32| {
        let mut history = session(1000, 100, first);
        let last = history.last().unwrap().0;
        history.extend(session(last + gap, sequence, true));
        history
    };
    for program in BOTH {
        // Within the idle timeout after a close, the SYN's sequence number decides: an equal number is a
        // retransmission.
        assert_eq!(told_apart(program, &after(true, 1, 9000)), [(3, 3), (3, 3)], "{program}");
        assert_eq!(told_apart(program, &after(true, 4_999, 9000)), [(3, 3), (3, 3)], "{program}");
        // The flow has payload, although it had no FIN.
        assert_eq!(told_apart(program, &after(false, 10, 9000)), [(2, 2), (3, 3)], "{program}");
        // Three flows between two polls.
        let mut history = after(true, 10, 9000);
        history.extend(session(history.last().unwrap().0 + 10, 77, false));
        assert_eq!(told_apart(program, &history), [(3, 3), (3, 3), (2, 2)], "{program}");
        // A retransmitted SYN belongs to its connection.
        let syns = [1000, 2000, 4000, 8000].map(|time| (time, up(SYN).sequence(5)));
        assert_eq!(told_apart(program, &syns), [(4, 0)], "{program}");
    }
}

#[test]
fn idle_timeout_ends_flow() {
    let then = |history: &[(u64, FrameBuilder)], gap: u64, frame: FrameBuilder| {
        let mut history = history.to_vec();
        history.push((history.last().unwrap().0 + gap, frame));
        history
    };
    let (open, closed) = (session(1000, 100, false), session(1000, 100, true));
    let syn = [(1000, up(SYN).sequence(5))];
    for program in BOTH {
        // Idle: 300 s.
        assert_eq!(told_apart(program, &then(&open, 299_999, up(ACK))), [(3, 2)], "{program}");
        assert_eq!(told_apart(program, &then(&open, 300_000, up(ACK))), [(2, 2), (1, 0)], "{program}");
        assert_eq!(told_apart(program, &then(&open, 300_000, down(ACK))), [(2, 2), (0, 1)], "{program}");
        // Closed: 5 s, in which late packets belong to the flow.
        assert_eq!(told_apart(program, &then(&closed, 4_999, up(ACK))), [(4, 3)], "{program}");
        assert_eq!(told_apart(program, &then(&closed, 5_000, up(ACK))), [(3, 3), (1, 0)], "{program}");
        // An unanswered SYN: 127 s.
        let again = up(SYN).sequence(5);
        assert_eq!(told_apart(program, &then(&syn, 126_999, again.clone())), [(2, 0)], "{program}");
        assert_eq!(told_apart(program, &then(&syn, 127_000, again)), [(1, 0), (1, 0)], "{program}");
    }
}

#[test]
fn ended_flow_decides_nothing_evicted_or_not() {
    let gone = 1000 + 300_000;
    for taken in [false, true] {
        // Both ports are watched, and the SYN came from the lower port.
        let mut kernel = load("tc_mirror");
        kernel.set_now(at(1000)).unwrap();
        let syn = FrameBuilder::tcp("10.20.0.2:25", "93.184.215.25:587", SYN);
        let answer = FrameBuilder::tcp("93.184.215.25:587", "10.20.0.2:25", SYN | ACK);
        kernel.run("tc_mirror", &syn.build(), None).unwrap();
        kernel.run("tc_mirror", &answer.build(), None).unwrap();
        kernel.set_now(at(gone)).unwrap();
        if taken {
            let ended = flows(&mut kernel);
            assert_eq!(kernel.evict(&ended).unwrap(), [EvictOutcome::Evicted]);
        }
        let late = FrameBuilder::tcp("93.184.215.25:587", "10.20.0.2:25", ACK);
        kernel.run("tc_mirror", &late.build(), None).unwrap();
        let flows = flows(&mut kernel);
        let new = flows.iter().find(|flow| flow.first == at(gone)).unwrap();
        assert_eq!((new.key.server_port, new.up.packets), (25, 1), "taken out {taken}: the lower port");

        // At the ingress of a host with a LAN, only packets of live flows are the machine's own.
        let mut kernel = load_with(&LoadOptions { local_only: true, ..options() });
        kernel.set_now(at(1000)).unwrap();
        kernel.run("tc_host_out", &up(SYN).build(), None).unwrap();
        kernel.run("tc_host_in", &down(SYN | ACK).build(), None).unwrap();
        kernel.set_now(at(gone)).unwrap();
        if taken {
            let ended = self::flows(&mut kernel);
            assert_eq!(kernel.evict(&ended).unwrap(), [EvictOutcome::Evicted]);
        }
        kernel.run("tc_host_in", &down(ACK).build(), None).unwrap();
        assert_eq!(kernel.totals().unwrap().reason(Reason::NotLocal), 1, "taken out {taken}");
    }
}

#[test]
fn duplicated_handshake_packets_are_counted_as_copies() {
    for program in BOTH {
        let mut kernel = load(program);
        let mut seen = |time: u64, frame: FrameBuilder| {
            kernel.set_now(at(time)).unwrap();
            kernel.run(program, &frame.build(), None).unwrap();
            let totals = kernel.totals().unwrap();
            let both = [totals.syns, totals.syn_acks];
            (both.map(|openings| openings.all), both.map(|openings| openings.copies))
        };
        assert_eq!(seen(1000, up(SYN).sequence(7)), ([1, 0], [0, 0]), "{program}");
        assert_eq!(seen(1000, up(SYN).sequence(7)), ([2, 0], [1, 0]), "{program}: in the same tick");
        assert_eq!(seen(1001, up(SYN).sequence(7)), ([3, 0], [2, 0]), "{program}: as the clock ticks");
        assert_eq!(seen(2001, up(SYN).sequence(7)), ([4, 0], [2, 0]), "{program}: sent again");
        assert_eq!(seen(2001, up(SYN).sequence(8)), ([5, 0], [2, 0]), "{program}: another connection");
        assert_eq!(seen(2002, down(SYN | ACK).sequence(9)), ([5, 1], [2, 0]), "{program}");
        assert_eq!(seen(2002, down(SYN | ACK).sequence(9)), ([5, 2], [2, 1]), "{program}");
        assert_eq!(seen(3002, down(SYN | ACK).sequence(9)), ([5, 3], [2, 1]), "{program}: sent again");
    }
}

#[test]
fn flows_of_a_tuple_have_separate_facts() {
    for program in BOTH {
        let mut kernel = load(program);
        let mut history = session(1000, 100, true);
        history.extend([
            (2000, up(SYN).sequence(9000)),
            (2010, down(SYN | ACK).sequence(700)),
            (2020, up(ACK).sequence(9001).payload("GET / HTTP/1.1\r\n")),
        ]);
        for (time, frame) in &history {
            kernel.set_now(at(*time)).unwrap();
            kernel.run(program, &frame.build(), None).unwrap();
        }
        let snapshot = kernel.snapshot(at(3000)).unwrap();
        let (before, after) = (&snapshot.superseded[0], &snapshot.flows[0]);
        assert_eq!(
            (before.flow.facts.first_payload_up, before.flow.facts.fin_up),
            (first_payload::SMTP, 1),
            "{program}"
        );
        assert_eq!(
            (after.facts.first_payload_up, after.facts.fin_up),
            (first_payload::OTHER, 0),
            "{program}"
        );
        assert_eq!(
            (before.flow.first, before.flow.last(), before.superseded_at),
            (at(1000), at(1050), at(2000))
        );
        assert_eq!((after.first, after.last()), (at(2000), at(2020)));
        // A superseded flow is read once.
        assert_eq!(kernel.snapshot(at(4000)).unwrap().superseded, []);
        // After its eviction, the 5-tuple begins a new flow.
        let flows = kernel.snapshot(at(4000)).unwrap().flows;
        assert_eq!((flows.len(), flows[0].up.packets), (1, 2));
        assert_eq!(kernel.evict(&flows).unwrap(), [EvictOutcome::Evicted]);
        kernel.run(program, &up(ACK).build(), None).unwrap();
        assert_eq!(kernel.snapshot(at(5000)).unwrap().flows[0].up.packets, 1);
    }
}
