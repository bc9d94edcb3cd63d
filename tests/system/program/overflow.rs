//! Full flow table: every packet is counted to its source or, if there is no space for that, to one sum.

use std::collections::BTreeMap;

use mailflow_common::{Reason, Totals};
use mailflow_engine::{
    event::CounterDelta,
    flow::{DirectionStats, EvictOutcome},
    time::Time,
};
use mailflow_kernel::{ConservationDifference, Kernel, LoadOptions, Programs};
use mailflow_test_support::frame::{FrameBuilder, flag::*, fragmented};

const SERVER: &str = "93.184.215.25:25";
const SERVER6: &str = "[2a00:1450::25]:25";
const PROGRAM: &str = "tc_mirror";

fn load(flows: u32, flows_per_source: u32, overflow: u32) -> Kernel {
    let all = crate::under_test::options(Programs::One(PROGRAM));
    let options = LoadOptions { flows, flows_per_source, overflow, ..all };
    crate::under_test::load(&options, &[25, 465, 587, 994]).unwrap()
}

fn at(milliseconds: u64) -> Time {
    Time::from_nanos(milliseconds * 1_000_000)
}

fn send(kernel: &Kernel, frame: &FrameBuilder) {
    kernel.run(PROGRAM, &frame.build(), None).unwrap();
}

/// Packets and bytes sent to and from each source.
#[derive(Default)]
struct Sent(BTreeMap<String, [CounterDelta; 2]>);

impl Sent {
    fn send(&mut self, kernel: &Kernel, source: &str, down: bool, frame: &FrameBuilder) {
        send(kernel, frame);
        let gain = &mut self.0.entry(source.to_owned()).or_default()[usize::from(down)];
        gain.packets += 1;
        gain.bytes += frame.ip_bytes();
    }
}

/// Packets and bytes of each source in the maps, by map.
#[derive(Default)]
struct Seen {
    sources: BTreeMap<String, [CounterDelta; 2]>,
    flows: BTreeMap<String, u64>,
    spilled: BTreeMap<String, u64>,
}

fn seen(kernel: &mut Kernel, now: Time) -> Seen {
    let mut seen = Seen::default();
    let mut add = |source: &str, up: &DirectionStats, down: &DirectionStats| {
        let sums = seen.sources.entry(source.to_owned()).or_default();
        for (sum, direction) in sums.iter_mut().zip([up, down]) {
            sum.packets += direction.packets;
            sum.bytes += direction.bytes;
        }
    };
    let snapshot = kernel.snapshot(now).unwrap();
    assert_eq!(snapshot.superseded, []);
    for flow in &snapshot.flows {
        let source = flow.client().to_string();
        add(&source, &flow.up, &flow.down);
        *seen.flows.entry(source).or_default() += 1;
    }
    for spill in &snapshot.overflow {
        let source = spill.key.source.ip().to_string();
        add(&source, &spill.up, &spill.down);
        *seen.spilled.entry(source).or_default() += spill.up.packets + spill.down.packets;
    }
    seen
}

/// Returns the totals; checks that the maps, just read, account for all of them.
fn conserved(kernel: &Kernel) -> Totals {
    let totals = kernel.totals().unwrap();
    assert_eq!(kernel.packet_audit().difference(&totals, &totals), ConservationDifference::default());
    totals
}

/// Returns a session's packets: true for those to the client, and the frame.
fn session(client: &str, server: &str) -> Vec<(bool, FrameBuilder)> {
    vec![
        (false, FrameBuilder::tcp(client, server, SYN)),
        (true, FrameBuilder::tcp(server, client, SYN | ACK)),
        (true, FrameBuilder::tcp(server, client, ACK).payload("220 mx.example ESMTP\r\n")),
        (false, FrameBuilder::tcp(client, server, ACK).payload(vec![b'x'; 700])),
        (false, FrameBuilder::tcp(client, server, FIN | ACK)),
        (true, FrameBuilder::tcp(server, client, FIN | ACK)),
    ]
}

#[test]
fn full_table_counts_to_source_overflow() {
    let mut kernel = load(16, 16, 1024);
    let mut sent = Sent::default();
    for port in 0..40_u16 {
        for host in 1..=5 {
            let source = format!("10.20.0.{host}");
            for (down, frame) in session(&format!("{source}:{}", 40_000 + port), SERVER) {
                sent.send(&kernel, &source, down, &frame);
            }
        }
    }
    let seen = seen(&mut kernel, at(1));
    let totals = conserved(&kernel);
    assert_eq!(seen.sources, sent.0);
    let flows: u64 = seen.flows.values().sum();
    assert!((16..40).contains(&flows), "{flows} flows in a table for 16, and a few a CPU");
    assert_eq!(seen.spilled.values().sum::<u64>(), 1200 - 6 * flows);
    assert_eq!((totals.shown(), totals.unattributed_up.packets), (1200, 0));
    assert_eq!(totals.reasons, [0; 16]);
}

#[test]
fn source_overflow_keeps_counters_of_bulk_rule() {
    let mut kernel = load(16, 1, 1024);
    for port in 0..11_u16 {
        for (_, frame) in session(&format!("10.20.0.7:{}", 40_000 + port), SERVER) {
            send(&kernel, &frame);
        }
    }
    let snapshot = kernel.snapshot(at(1)).unwrap();
    assert_eq!((snapshot.flows.len(), snapshot.overflow.len()), (1, 1));
    let spill = &snapshot.overflow[0];
    assert_eq!((spill.key.server_port, spill.key.protocol), (25, 6));
    assert_eq!((spill.attempts, spill.sessions), (10, 10));
    assert_eq!((spill.up.payload, spill.up.data_packets, spill.up.data_bytes), (7_000, 10, 7_400));
    assert_eq!((spill.down.payload, spill.down.packets), (220, 30));
    conserved(&kernel);
}

#[test]
fn source_limit_leaves_table_to_others() {
    let mut kernel = load(1024, 100, 1024);
    let mut sent = Sent::default();
    for port in 0..3_000_u16 {
        let frame = FrameBuilder::tcp(&format!("10.20.0.66:{}", 10_000 + port), SERVER, SYN);
        sent.send(&kernel, "10.20.0.66", false, &frame);
    }
    for host in 1..=60 {
        let source = format!("10.20.1.{host}");
        for (down, frame) in session(&format!("{source}:40000"), SERVER) {
            sent.send(&kernel, &source, down, &frame);
        }
    }
    let seen = seen(&mut kernel, at(1));
    conserved(&kernel);
    assert_eq!(seen.sources, sent.0);
    assert_eq!((seen.flows["10.20.0.66"], seen.spilled["10.20.0.66"]), (100, 2_900));
    assert_eq!((seen.flows.len(), seen.flows.values().sum::<u64>()), (61, 160), "the others have theirs");
    assert_eq!(seen.spilled.len(), 1);
}

/// Sends a SYN for each spoofed source in `numbers`.
fn flood(kernel: &Kernel, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let ip = std::net::Ipv4Addr::from(0x0a80_0000 + number);
        send(kernel, &FrameBuilder::tcp(&format!("{ip}:40000"), SERVER, SYN));
    }
}

#[test]
fn spoofed_sources_leave_slots_for_answered_flows() {
    // A table without buckets, and one with buckets.
    for flows in [1_000, 16_000] {
        let all = crate::under_test::options(Programs::One(PROGRAM));
        let options = LoadOptions {
            flows,
            flows_per_source: flows / 10,
            overflow: 1_000,
            half_open_percent: 75,
            external_clock: true,
            ..all
        };
        let mut kernel = crate::under_test::load(&options, &[25, 465, 587, 994]).unwrap();
        let mut numbers = (0..).step_by(2 * flows as usize).map(|from| from..from + 2 * flows);
        let mut rest = 0;
        // With and without a poll in between: a poll must not make space for more spoofed sources.
        for round in 0..3 {
            flood(&kernel, numbers.next().unwrap());
            let snapshot = kernel.snapshot(at(1)).unwrap();
            assert_eq!(snapshot.flows.len() as u32, flows * 3 / 4, "{flows} flows, round {round}");
            assert_eq!(snapshot.overflow.len(), 750);
            rest += 2 * flows;
            let unattributed = kernel.totals().unwrap().unattributed_up.packets;
            assert_eq!(unattributed as u32, rest - flows * 3 / 4 - 750);
        }
        let session_of = |host: u32| format!("10.20.{}.{}:40000", host / 200, host % 200 + 1);
        // More sessions than the limit of half-open flows, interleaved with the flood.
        for host in 0..flows / 5 {
            for (_, frame) in session(&session_of(host), SERVER) {
                send(&kernel, &frame);
            }
        }
        // RSTs of closed servers and ACKs of clients are no answers.
        for number in 0..flows {
            let client = format!("10.21.{}.{}:40000", number / 200, number % 200 + 1);
            send(&kernel, &FrameBuilder::tcp(SERVER, &client, RST | ACK));
            send(&kernel, &FrameBuilder::tcp(&client, SERVER, ACK).payload("early"));
        }
        let snapshot = kernel.snapshot(at(1)).unwrap();
        conserved(&kernel);
        let answered: Vec<_> = snapshot.flows.iter().filter(|flow| flow.down.packets > 0).collect();
        assert_eq!(answered.len() as u32, flows / 5, "each real session has its flow");
        let whole = |flow: &&&mailflow_engine::flow::Flow| {
            (flow.up.packets, flow.up.payload, flow.down.packets) == (2, 700, 3) && flow.facts.syn == 0
        };
        assert_eq!(answered.iter().filter(whole).count(), answered.len(), "all but the SYN");
        // Evicted flows make space for others.
        let half_open: Vec<_> = snapshot.flows.into_iter().filter(|flow| flow.down.packets == 0).collect();
        assert!(kernel.evict(&half_open).unwrap().iter().all(|fate| *fate == EvictOutcome::Evicted));
        kernel.snapshot(at(1)).unwrap();
        flood(&kernel, numbers.next().unwrap());
        assert_eq!(kernel.snapshot(at(1)).unwrap().flows.len() as u32, flows * 3 / 4);
        conserved(&kernel);
    }
}

#[test]
fn spoofed_sources_leave_overflow_entry_for_source_at_limit() {
    let all = crate::under_test::options(Programs::One(PROGRAM));
    let options =
        LoadOptions { flows: 100, flows_per_source: 1, overflow: 100, half_open_percent: 75, ..all };
    let mut kernel = crate::under_test::load(&options, &[25, 465, 587, 994]).unwrap();
    flood(&kernel, 0..5_000);
    for port in 0..11_u16 {
        for (_, frame) in session(&format!("10.20.0.7:{}", 40_000 + port), SERVER) {
            send(&kernel, &frame);
        }
    }
    let snapshot = kernel.snapshot(at(1)).unwrap();
    conserved(&kernel);
    let is_real = |ip: std::net::IpAddr| ip.to_string() == "10.20.0.7";
    let flows: Vec<_> = snapshot.flows.iter().filter(|flow| is_real(flow.client())).collect();
    let spills: Vec<_> = snapshot.overflow.iter().filter(|spill| is_real(spill.key.source.ip())).collect();
    assert_eq!((flows.len(), spills.len()), (1, 1));
    assert_eq!((flows[0].up.payload + spills[0].up.payload, spills[0].sessions), (11 * 700, 10));
}

#[test]
fn ipv6_sources_are_prefixes() {
    let mut kernel = load(1024, 10, 1024);
    for host in 1..=50 {
        send(&kernel, &FrameBuilder::tcp(&format!("[fd20::1:{host:x}]:40000"), SERVER6, SYN));
        send(&kernel, &FrameBuilder::tcp(&format!("[fd20:0:0:{host:x}::1]:40000"), SERVER6, SYN));
    }
    let snapshot = kernel.snapshot(at(1)).unwrap();
    let of_first = |ip: std::net::IpAddr| matches!(ip, std::net::IpAddr::V6(ip) if ip.segments()[..4] == [0xfd20, 0, 0, 0]);
    assert_eq!(snapshot.flows.iter().filter(|flow| of_first(flow.client())).count(), 10);
    assert_eq!(snapshot.flows.len(), 60);
    assert_eq!(snapshot.overflow.len(), 1);
    assert_eq!(snapshot.overflow[0].key.source.ip().to_string(), "fd20::");
    assert_eq!(snapshot.overflow[0].up.packets, 40);
    conserved(&kernel);
}

#[test]
fn packets_without_overflow_entry_are_one_sum() {
    let mut kernel = load(8, 8, 8);
    let mut bytes = 0;
    for host in 0..500_u32 {
        let ip = std::net::Ipv4Addr::from(0x0a14_0000 + host);
        let frame = FrameBuilder::tcp(&format!("{ip}:40000"), SERVER, SYN).payload("early");
        send(&kernel, &frame);
        let answer = FrameBuilder::tcp(SERVER, &format!("{ip}:40000"), SYN | ACK);
        send(&kernel, &answer);
        bytes += frame.ip_bytes();
    }
    let seen = seen(&mut kernel, at(1));
    let totals = conserved(&kernel);
    let counted: u64 = seen.sources.values().map(|sums| sums[0].packets).sum();
    assert!(counted < 100 && totals.unattributed_up.packets == 500 - counted, "{counted}");
    assert_eq!((totals.up.packets, totals.up.bytes, totals.down.packets), (500, bytes, 500));
    assert_eq!((totals.shown(), totals.reasons), (1_000, [0; 16]));
}

#[test]
fn fragments_follow_first_fragment_into_overflow() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut kernel = load(16, 1, 1024);
        send(&kernel, &FrameBuilder::tcp("10.20.0.9:1000", SERVER, SYN));
        let parts = fragmented("10.20.0.9:2000", SERVER, 77);
        order.iter().for_each(|part: &usize| send(&kernel, &parts[*part]));
        let snapshot = kernel.snapshot(at(1)).unwrap();
        let totals = conserved(&kernel);
        let spill = &snapshot.overflow[0];
        let bytes: u64 = parts.iter().map(FrameBuilder::ip_bytes).sum();
        assert_eq!((spill.up.packets, spill.up.bytes, spill.up.payload), (3, bytes, 1500), "{order:?}");
        assert_eq!((totals.reason(Reason::Fragment), totals.shown()), (0, 4));
    }
}

#[test]
fn evicted_flow_was_read_completely_and_frees_source_limit() {
    let mut kernel = load(1024, 200, 1024);
    for port in 0..500_u16 {
        send(&kernel, &FrameBuilder::tcp(&format!("10.20.0.2:{}", 40_000 + port), SERVER, SYN));
    }
    let flows = kernel.snapshot(at(1)).unwrap().flows;
    assert_eq!(flows.len(), 200);
    // Three flows get a packet after the poll: they stay, with all their packets.
    for flow in &flows[20..23] {
        send(&kernel, &FrameBuilder::tcp(&format!("10.20.0.2:{}", flow.key.client_port), SERVER, ACK));
    }
    let fates = kernel.evict(&flows).unwrap();
    let lives = |index: usize| (20..23).contains(&index);
    for (index, fate) in fates.iter().enumerate() {
        assert_eq!(
            *fate,
            if lives(index) { EvictOutcome::Changed } else { EvictOutcome::Evicted },
            "{index}"
        );
    }
    let left = kernel.snapshot(at(1)).unwrap().flows;
    assert_eq!(left.iter().map(|flow| flow.up.packets).collect::<Vec<_>>(), [2, 2, 2]);
    conserved(&kernel);
    // 197 flows of the source limit are free again.
    for port in 0..300_u16 {
        send(&kernel, &FrameBuilder::tcp(&format!("10.20.0.2:{}", 50_000 + port), SERVER, SYN));
    }
    let left = kernel.snapshot(at(1)).unwrap().flows;
    assert_eq!(left.len(), 200);
    conserved(&kernel);
    assert_eq!(kernel.evict(&left[..70]).unwrap(), [EvictOutcome::Evicted; 70]);
    assert_eq!(kernel.evict(&left[..70]).unwrap(), [EvictOutcome::Missing; 70]);
}

#[test]
fn idle_overflow_entry_is_evicted_and_restarts() {
    let mut kernel = load(16, 1, 1024);
    kernel.set_now(at(1_000)).unwrap();
    for port in 0..5_u16 {
        send(&kernel, &FrameBuilder::tcp(&format!("10.20.0.2:{}", 40_000 + port), SERVER, SYN));
    }
    let spilled = |kernel: &mut Kernel, now: u64| {
        let spilled = kernel.snapshot(at(now)).unwrap().overflow;
        conserved(kernel);
        spilled.iter().map(|spill| (spill.up.packets, spill.is_final)).collect::<Vec<_>>()
    };
    assert_eq!(spilled(&mut kernel, 300_999), [(4, false)]);
    assert_eq!(spilled(&mut kernel, 301_000), [(4, true)]);
    assert_eq!(spilled(&mut kernel, 302_000), []);
    kernel.set_now(at(303_000)).unwrap();
    send(&kernel, &FrameBuilder::tcp("10.20.0.2:50000", SERVER, ACK));
    assert_eq!(spilled(&mut kernel, 303_000), [(1, false)]);
}

#[test]
fn flows_that_cannot_be_superseded_are_merged_and_counted() {
    const ROOM: u32 = 65_536;
    let tuples = ROOM + 2_000;
    let mut kernel = load(tuples + 1_000, u32::MAX, 16);
    for time in [1_000, 10_000] {
        kernel.set_now(at(time)).unwrap();
        for tuple in 0..tuples {
            let ip = std::net::Ipv4Addr::from(0x0a00_0000 + tuple);
            let frame = FrameBuilder::tcp(&format!("{ip}:40000"), SERVER, RST | ACK);
            send(&kernel, &frame);
        }
    }
    let snapshot = kernel.snapshot(at(10_000)).unwrap();
    let totals = conserved(&kernel);
    let merged = snapshot.flows.iter().filter(|flow| flow.up.packets == 2).count();
    assert_eq!(
        (snapshot.flows.len(), snapshot.superseded.len() + merged),
        (tuples as usize, tuples as usize)
    );
    assert!(merged > 1_000 && totals.merged == merged as u64, "{merged}");
    assert_eq!(totals.up.packets, u64::from(2 * tuples));
}
