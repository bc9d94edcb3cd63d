//! More flows than the capacity, from two senders at full rate, with a running agent. Every packet is in a
//! source's totals or in the sum of the rest, and none is in both.

mailflow_test_support::needs_root!();

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::Ipv4Addr,
    thread,
    time::Duration,
};

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::{Agent, Lab, LabOptions, agent_binary, wait_for},
    wire::Wire,
};
use serde_json::Value;

const SERVER: &str = "93.184.215.25:25";
const HOG: &str = "10.66.6.6";

/// Configuration with small tables, so that all of them overflow, and short timeouts, so that slots become
/// free.
const CONFIG: &str = "
poll_interval: 100ms
flow_table: { flows: 20000, source_share_percent: 25, overflow_sources: 4000 }
timeouts: { closed: 300ms, unanswered: 1s, idle: 60s, active: 1h }
outputs: { metrics: { listen: '127.0.0.1:10825', max_sources: 300000 }, alerts: off }
rules: []
";

/// Frames in sending order, and packets up and down of each source.
#[derive(Default)]
struct Traffic {
    frames: Vec<Vec<u8>>,
    sources: BTreeMap<String, [u64; 2]>,
}

impl Traffic {
    fn up(&mut self, client: Ipv4Addr, port: u16, flags: u8, payload: usize) {
        let frame =
            FrameBuilder::tcp(&format!("{client}:{port}"), SERVER, flags).payload(vec![b'x'; payload]);
        self.add(client, 0, &frame);
    }

    fn down(&mut self, client: Ipv4Addr, port: u16, flags: u8, payload: usize) {
        let frame =
            FrameBuilder::tcp(SERVER, &format!("{client}:{port}"), flags).payload(vec![b'x'; payload]);
        self.add(client, 1, &frame);
    }

    fn add(&mut self, client: Ipv4Addr, direction: usize, frame: &FrameBuilder) {
        self.frames.push(frame.build());
        self.sources.entry(client.to_string()).or_default()[direction] += 1;
    }

    /// Returns the traffic of one source that uses all of its limit.
    fn hog() -> Self {
        let mut traffic = Self::default();
        for port in 0..60_000 {
            traffic.up(HOG.parse().unwrap(), port, SYN, 0);
        }
        traffic
    }

    /// Returns the traffic of hosts that send some mail, then of many spoofed sources.
    fn crowd() -> Self {
        let mut traffic = Self::default();
        for port in 40_000..40_020 {
            for host in 1..=300_u32 {
                let client = Ipv4Addr::from(0x0a14_0000 + host);
                traffic.up(client, port, SYN, 0);
                traffic.down(client, port, SYN | ACK, 0);
                traffic.down(client, port, ACK | PSH, 40);
                traffic.up(client, port, ACK | PSH, 900);
                traffic.up(client, port, FIN | ACK, 0);
                traffic.down(client, port, FIN | ACK, 0);
            }
        }
        for spoofed in 0..100_000_u32 {
            traffic.up(Ipv4Addr::from(0x0b00_0000 + spoofed), 40_000, SYN, 0);
        }
        traffic
    }
}

/// Returns the samples of the page by name and labels.
fn samples(page: &str) -> HashMap<&str, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
}

#[test]
fn overload_packets_are_in_source_totals_or_rest() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let config = lab.folder().join("small.yaml");
    fs::write(&config, CONFIG).unwrap();
    let flow_log = lab.folder().join("flows.jsonl");
    let options = format!(
        "--config {} --interface lan0 --role mirror --flow-log {}",
        config.display(),
        flow_log.display()
    );
    let mut agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();

    let all = [Traffic::hog(), Traffic::crowd()];
    thread::scope(|scope| {
        for traffic in &all {
            let wire = Wire::open(&lab.client, "eth0").unwrap();
            scope.spawn(move || wire.send(&traffic.frames).unwrap());
        }
    });
    let mut sources = BTreeMap::new();
    all.iter().for_each(|traffic| sources.extend(traffic.sources.clone()));
    let sent = |direction: usize| sources.values().map(|sums| sums[direction]).sum::<u64>() as f64;

    // Until the agent has read the last packets, and their flows have ended.
    let page = wait_for("a reading of all packets at rest", Duration::from_secs(240), || {
        let page = agent.metrics()?;
        let found = samples(&page);
        let at_rest = found["mailflow_accounted_packets{location=\"active\",direction=\"up\"}"] == 0.0;
        Ok((found["mailflow_kernel_packets_total{direction=\"up\"}"] >= sent(0) && at_rest).then_some(page))
    })
    .unwrap();
    let found = samples(&page);
    for (name, value) in &found {
        if name.starts_with("mailflow_conservation_difference") {
            assert_eq!(*value, 0.0, "{name}");
        }
    }
    let held = |place: &str, direction: &str| {
        found
            [format!("mailflow_accounted_packets{{location=\"{place}\",direction=\"{direction}\"}}").as_str()]
    };
    let mut missing = [0.0; 2];
    for (index, direction) in ["up", "down"].into_iter().enumerate() {
        let counted = found[format!("mailflow_kernel_packets_total{{direction=\"{direction}\"}}").as_str()];
        assert_eq!(counted, sent(index), "packets {direction}: the program saw each once");
        for (source, sums) in &sources {
            let series =
                format!("mailflow_source_packets_total{{source=\"{source}\",direction=\"{direction}\"}}");
            let booked = found.get(series.as_str()).copied().unwrap_or(0.0);
            assert!(booked <= sums[index] as f64, "{series} {booked}: more than was sent");
            missing[index] += sums[index] as f64 - booked;
        }
        assert_eq!(missing[index], held("unattributed", direction), "what no source has is unattributed");
    }
    let hog = format!("mailflow_source_packets_total{{source=\"{HOG}\",direction=\"up\"}}");
    println!(
        "sent up {}, down {}; held up: retired {}, overflow {}, unattributed {}; the hog's {}",
        sent(0),
        sent(1),
        held("ended", "up"),
        held("overflow", "up"),
        held("unattributed", "up"),
        found[hog.as_str()],
    );
    // Check of the test: all four counters were used.
    assert!(held("overflow", "up") > 10_000.0 && held("unattributed", "up") > 10_000.0);
    assert!(agent.log().contains("new flows are counted by source"), "{}", agent.log());

    let retired = [held("ended", "up"), held("ended", "down")];
    assert!(agent.stop().unwrap().success());
    let records = fs::read_to_string(&flow_log).unwrap();
    let mut recorded = [0; 2];
    for line in records.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        recorded[0] += record["flow"]["pkts_toserver"].as_u64().unwrap();
        recorded[1] += record["flow"]["pkts_toclient"].as_u64().unwrap();
    }
    assert_eq!(recorded.map(|packets| packets as f64), retired, "the records hold what the flows held");
}
