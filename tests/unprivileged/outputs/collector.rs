//! IPFIX messages, read by a test collector.

use std::{
    collections::HashSet,
    net::{TcpListener, UdpSocket},
    sync::Arc,
};

use mailflow_agent::{
    config::{FlowDestination, FlowOutput, Ipfix, IpfixDestination},
    metrics::AgentMetrics,
    outputs::{FlowEvent, factory, worker::SinkWorker},
    util::disk::FileLimits,
};
use mailflow_engine::flow::{FlowRecord, RecordReason};

use crate::{
    fixture::{EPOCH, at, key, record},
    ipfix_collector::{Collector, number, read},
    peer::{PATIENCE, gateway, until},
};

fn exporter(to: IpfixDestination) -> SinkWorker<FlowEvent> {
    let agent = AgentMetrics::new("test", 0.0).unwrap();
    factory::open_flow_worker(
        &FlowOutput { name: "test".into(), to: FlowDestination::Ipfix(Ipfix { to, domain: 7 }) },
        FileLimits::NONE,
        &agent,
        &gateway(),
    )
    .unwrap()
}

fn push(sink: &SinkWorker<FlowEvent>, record: FlowRecord) {
    sink.push((Arc::new(record), EPOCH));
}

fn v4(port: u16) -> FlowRecord {
    record(key("10.0.0.9", port, "192.0.2.1", 25))
}

#[test]
fn ipfix_record_has_both_directions() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let sink = exporter(IpfixDestination::Udp(socket.local_addr().unwrap().to_string()));
    push(&sink, v4(40_001));
    let (mut collector, mut buffer) = (Collector::default(), [0; 2_048]);
    let length = socket.recv(&mut buffer).unwrap();
    collector.message(&buffer[..length], 7);
    let seconds = number(&buffer[4..8]);
    assert!(seconds > 1_700_000_000, "the time of the export, not of the flow: {seconds}");
    let record = &collector.records[0];
    for (element, reverse, expected) in [
        (8, false, 0x0a00_0009),
        (12, false, 0xc000_0201),
        (7, false, 40_001),
        (11, false, 25),
        (4, false, 6),
        (152, false, 1_795_231_860_123),
        (153, false, 1_795_231_921_500),
        (2, false, 101),
        (1, false, 102),
        (2, true, 201),
        (1, true, 202),
        (6, false, 0x03),
        (6, true, 0x13),
        (136, false, 3),
        (239, false, 1),
        (58, false, 0),
        (56, false, 0x0200_0000_ab01),
    ] {
        assert_eq!(number(&record[&(element, reverse)]), expected, "{element} {reverse}");
    }
}

#[test]
fn cumulative_records_become_deltas_within_datagram_limit() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let sink = exporter(IpfixDestination::Udp(socket.local_addr().unwrap().to_string()));
    let mut expected = [0; 2];
    for port in 0..200 {
        let mut flow = v4(port);
        flow.reason = RecordReason::Active;
        push(&sink, flow.clone());
        let v6 = record(key("2001:db8::9", port, "2001:db8:1::1", 465));
        push(&sink, v6.clone());
        flow.reason = RecordReason::Idle;
        flow.flow.up.packets += u64::from(port);
        flow.flow.up.last = Some(at(90_000));
        for direction in [&flow.flow.up, &v6.flow.up] {
            expected[0] += direction.packets;
            expected[1] += direction.bytes;
        }
        push(&sink, flow);
    }
    let (mut collector, mut buffer) = (Collector::default(), [0; 2_048]);
    while collector.records.len() < 600 {
        let length = socket.recv(&mut buffer).unwrap();
        assert!(length <= 1_232, "{length}");
        collector.message(&buffer[..length], 7);
    }
    assert_eq!(collector.taught, 1, "not in every message");
    let sum =
        |element| collector.records.iter().map(|record| number(&record[&(element, false)])).sum::<u64>();
    assert_eq!([sum(2), sum(1)], expected);
    let ids: HashSet<_> = collector.records.iter().map(|record| record[&(148, false)].clone()).collect();
    assert_eq!(ids.len(), 400, "a flow keeps its id");
    until("counted", || sink.counters().written.get() == 600);
}

#[test]
fn tcp_collector_gets_templates_after_reconnect() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let sink = exporter(IpfixDestination::Tcp(addr.to_string()));
    push(&sink, v4(1));
    let mut stream = listener.accept().unwrap().0;
    let mut collector = Collector::default();
    read(&mut stream, &mut collector);
    push(&sink, v4(2));
    read(&mut stream, &mut collector);
    assert_eq!((collector.records.len(), collector.next, collector.taught), (2, 3, 1));
    let [options] = &collector.options[..] else { panic!("{:?}", collector.options) };
    assert_eq!((number(&options[&(149, false)]), &*options[&(300, false)]), (7, &b"gw1.example"[..]));

    drop((stream, listener));
    for port in 3..100 {
        push(&sink, v4(port));
    }
    until("an error", || sink.counters().errors.get() > 0);
    let listener = TcpListener::bind(addr).unwrap();
    let mut stream = listener.accept().unwrap().0;
    let mut collector = Collector::default();
    while collector.records.len() < 97 {
        read(&mut stream, &mut collector);
    }
    assert_eq!(collector.taught, 1);
    let ports: Vec<_> = collector.records.iter().map(|record| number(&record[&(7, false)])).collect();
    assert_eq!(ports, (3..100).collect::<Vec<_>>(), "all of them, in order");
    until("counted", || sink.counters().written.get() == 99 && sink.counters().waiting.get() == 0);
}
