//! IPFIX as a collector reads it: every length, every sequence number, every field.

use std::{
    collections::{HashMap, HashSet},
    io::Read,
    net::{TcpListener, UdpSocket},
    sync::Arc,
};

use mailflow_agent::{
    config::{FlowDestination, FlowOutput, Ipfix, IpfixDestination},
    metrics::Agent,
    outputs::{FlowEvent, factory, worker::Sink},
    util::disk::FileLimits,
};
use mailflow_engine::flow::{FlowRecord, RecordReason};

use crate::{
    fixture::{EPOCH, at, key, record},
    peer::{PATIENCE, gateway, until},
};

/// Element, and whether it is of the reverse direction.
type Element = (u16, bool);

/// A collector's knowledge.
#[derive(Default)]
pub(crate) struct Collector {
    templates: HashMap<u16, Vec<(Element, usize)>>,
    /// The sequence number that comes next.
    next: u32,
    records: Vec<HashMap<Element, Vec<u8>>>,
    /// The records of options templates.
    options: Vec<HashMap<Element, Vec<u8>>>,
    /// Messages with templates.
    taught: usize,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn short(bytes: &[u8], at: usize) -> usize {
    number(&bytes[at..at + 2]) as usize
}

impl Collector {
    /// Reads a message of a stream.
    pub(crate) fn stream(&mut self, stream: &mut impl Read) {
        read(stream, self);
    }

    /// Reads a message of a sender that another collector may have heard before.
    pub(crate) fn datagram(&mut self, message: &[u8]) {
        self.next = number(&message[8..12]) as u32;
        self.message(message, 7);
    }

    /// The client ports of all records.
    pub(crate) fn ports(&self) -> std::collections::BTreeSet<u64> {
        self.records.iter().map(|record| number(&record[&(7, false)])).collect()
    }

    /// Reads a message (RFC 7011, 3).
    fn message(&mut self, message: &[u8], domain: u64) {
        assert_eq!((short(message, 0), short(message, 2)), (10, message.len()));
        assert_eq!(number(&message[8..12]), u64::from(self.next), "data records sent before");
        assert_eq!(number(&message[12..16]), domain);
        let mut rest = &message[16..];
        while !rest.is_empty() {
            let (id, length) = (short(rest, 0) as u16, short(rest, 2));
            let set = &rest[4..length];
            match id {
                2 => {
                    self.taught += 1;
                    self.learn(set);
                }
                // After the number of fields stands that of those that are the scope.
                3 => self.learn(&[&set[..4], &set[6..]].concat()),
                _ => self.read(id, set),
            }
            rest = &rest[length..];
        }
    }

    fn learn(&mut self, mut set: &[u8]) {
        while !set.is_empty() {
            let (id, count) = (short(set, 0) as u16, short(set, 2));
            set = &set[4..];
            let mut fields = Vec::new();
            for _ in 0..count {
                let (element, length) = (short(set, 0) as u16, short(set, 2));
                set = &set[4..];
                let reverse = element & 0x8000 != 0;
                if reverse {
                    assert_eq!(number(&set[..4]), 29_305);
                    set = &set[4..];
                }
                fields.push(((element & 0x7fff, reverse), length));
            }
            self.templates.insert(id, fields);
        }
    }

    fn read(&mut self, id: u16, mut set: &[u8]) {
        while !set.is_empty() {
            let mut found = HashMap::new();
            for (element, length) in &self.templates[&id] {
                let mut length = *length;
                if length == usize::from(u16::MAX) {
                    (length, set) = (usize::from(set[0]), &set[1..]);
                }
                found.insert(*element, set[..length].to_vec());
                set = &set[length..];
            }
            let flow = found.contains_key(&(4, false));
            if flow {
                self.records.push(found)
            } else {
                self.options.push(found)
            }
            self.next = self.next.wrapping_add(1);
        }
    }
}

fn exporter(to: IpfixDestination) -> Sink<FlowEvent> {
    let agent = Agent::new("test", 0.0).unwrap();
    factory::flows(
        &FlowOutput { name: "test".into(), to: FlowDestination::Ipfix(Ipfix { to, domain: 7 }) },
        FileLimits::NONE,
        &agent,
        &gateway(),
    )
    .unwrap()
}

fn push(sink: &Sink<FlowEvent>, record: FlowRecord) {
    sink.push((Arc::new(record), EPOCH));
}

fn v4(port: u16) -> FlowRecord {
    record(key("10.0.0.9", port, "192.0.2.1", 25))
}

#[test]
fn a_record_holds_both_directions_of_its_flow() {
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
fn cumulative_records_become_gains_and_datagrams_keep_their_bound() {
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
fn over_tcp_a_collector_that_comes_back_is_taught_anew() {
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

/// One message.
fn read(stream: &mut impl Read, collector: &mut Collector) {
    let mut head = [0; 4];
    stream.read_exact(&mut head).unwrap();
    let mut message = head.to_vec();
    message.resize(short(&head, 2), 0);
    stream.read_exact(&mut message[4..]).unwrap();
    collector.message(&message, 7);
}
