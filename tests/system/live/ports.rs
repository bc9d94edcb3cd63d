//! Clients bound to a mail port, through a gateway with two watched networks. Each packet passes two hooks
//! that could count it, and is counted once.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use mailflow_test_support::lab::{
    Agent, Connection, Family, Hosts, Lab, LabOptions, Ns, TcpFacts, agent_binary, wait_for,
};
use serde_json::Value;

const PORTS: [u16; 3] = [25, 465, 587];
/// Bytes up and down of each connection; more than a segment, so that merged buffers occur.
const TALK: (usize, usize) = (9_000, 4_000);

/// Connection and its expected counters.
struct Case {
    name: String,
    connection: Connection,
    server: SocketAddr,
    /// Counters of both ends when the agent started.
    before: Option<(TcpFacts, TcpFacts)>,
}

/// Sender of the first exchange.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Client,
    Server,
}

impl Case {
    fn open(from: &Ns, port: u16, to: &Ns, server: SocketAddr) -> Self {
        let connection = Connection::open(from, port, to, server).unwrap();
        let name = format!("{} to {server}", connection.client_address().unwrap());
        Self { name, connection, server, before: None }
    }

    fn talk(&self, first: First) {
        if first == First::Server {
            self.connection.exchange(0, 700).unwrap();
        }
        self.connection.exchange(TALK.0, TALK.1).unwrap();
        self.connection.close().unwrap();
    }

    /// Returns packets and IP bytes up and down since the agent started.
    fn truth(&self) -> [u64; 4] {
        let (client, server) = self.connection.facts().unwrap();
        let before = |pick: fn(&(TcpFacts, TcpFacts)) -> u64| self.before.as_ref().map_or(0, pick);
        let up = u64::from(client.segments_out) - before(|(client, _)| client.segments_out.into());
        let down = u64::from(client.segments_in) - before(|(client, _)| client.segments_in.into());
        let up_payload = client.bytes_sent - before(|(client, _)| client.bytes_sent);
        let down_payload = server.bytes_sent - before(|(_, server)| server.bytes_sent);
        // IPv4 and TCP with timestamps; a SYN (RFC 9293, 7323) has 8 more bytes of options.
        assert!(client.timestamps);
        let syn = if self.before.is_none() { 8 } else { 0 };
        [up, 52 * up + syn + up_payload, down, 52 * down + syn + down_payload]
    }
}

fn lab() -> Lab {
    let lab =
        Lab::new(&LabOptions { hosts: Hosts::ClientAndInside, sources: 2, ..LabOptions::default() }).unwrap();
    for host in [&lab.client, &lab.server, lab.inside.as_ref().unwrap()] {
        // As in counts.rs: all segments have headers of equal length.
        host.sysctl("ipv4/tcp_sack", "0").unwrap();
    }
    lab
}

/// Starts an agent at each kind of hook, both with both networks.
fn agents(lab: &Lab) -> Vec<(&'static str, Agent, PathBuf)> {
    agents_with(lab, "")
}

/// Starts the agents with further lines of the configuration.
fn agents_with(lab: &Lab, more: &str) -> Vec<(&'static str, Agent, PathBuf)> {
    let quick = crate::quick(lab.folder(), more);
    let start = |(hook, port)| {
        let log = lab.folder().join(format!("{hook}.jsonl"));
        let options = format!(
            "{quick} --interface lan0 --interface lan1 --role lan --hook {hook} --metrics 127.0.0.1:{port} --flow-log {}",
            log.display()
        );
        let agent = Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), hook, &options);
        (hook, agent.unwrap(), log)
    };
    [("tc", 10_825), ("xdp", 10_826)].map(start).into()
}

/// Returns every pair of ports, from the client to the internal server and to the Internet server, and from
/// there to the client.
fn cases(lab: &Lab) -> Vec<Case> {
    let inside = lab.inside.as_ref().unwrap();
    let (family, pairs) = (Family::V4, PORTS.into_iter().flat_map(|own| PORTS.map(|port| (own, port))));
    pairs
        .flat_map(|(own, port)| {
            let at = |ip| SocketAddr::new(ip, port);
            [
                Case::open(&lab.client, own, inside, at(lab.inside_ip(family))),
                Case::open(&lab.client, own, &lab.server, at(lab.server_ip(family))),
                // Another address than above: equal endpoints in reverse are one connection.
                Case::open(&lab.server, own, &lab.client, at(lab.client_ip(family, 1))),
            ]
        })
        .collect()
}

/// Returns the final records as packets and bytes up and down, by both endpoints.
fn records(log: &PathBuf) -> BTreeMap<(SocketAddr, SocketAddr), Vec<[u64; 4]>> {
    let mut records: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let flow: Value = serde_json::from_str(line).unwrap();
        let end = |ip: &str, port: &str| {
            SocketAddr::new(flow[ip].as_str().unwrap().parse().unwrap(), flow[port].as_u64().unwrap() as u16)
        };
        let ends = (end("src_ip", "src_port"), end("dest_ip", "dest_port"));
        let names = ["pkts_toserver", "bytes_toserver", "pkts_toclient", "bytes_toclient"];
        records.entry(ends).or_default().push(names.map(|name| flow["flow"][name].as_u64().unwrap()));
    }
    records
}

/// Stops the agents and compares their records with TCP_INFO of both ends. `turned` selects the connections
/// whose server is taken for the client.
fn compare(agents: Vec<(&'static str, Agent, PathBuf)>, cases: &[Case], turned: impl Fn(&Case) -> bool) {
    let mut expected: BTreeMap<_, Vec<[u64; 4]>> = BTreeMap::new();
    for case in cases {
        let (client, truth) = (case.connection.client_address().unwrap(), case.truth());
        let [up, up_bytes, down, down_bytes] = truth;
        let (ends, counts) = if turned(case) {
            ((case.server, client), [down, down_bytes, up, up_bytes])
        } else {
            ((client, case.server), truth)
        };
        expected.entry(ends).or_default().push(counts);
    }
    for (hook, mut agent, log) in agents {
        wait_for("the records", Duration::from_secs(60), || {
            let found = std::fs::read_to_string(&log)?.lines().count();
            Ok((found >= cases.len()).then_some(()))
        })
        .unwrap_or_else(|error| println!("{hook}: {error}"));
        assert!(agent.stop().unwrap().success());
        let found = records(&log);
        let wrong: Vec<String> = cases
            .iter()
            .map(|case| {
                let client = case.connection.client_address().unwrap();
                let ends = if turned(case) { (case.server, client) } else { (client, case.server) };
                (case, expected.get(&ends), found.get(&ends))
            })
            .filter(|(_, expected, found)| expected != found)
            .map(|(case, expected, found)| format!("{}: {expected:?}, counted {found:?}", case.name))
            .collect();
        assert!(wrong.is_empty(), "{hook}: {wrong:#?}");
        assert_eq!(found, expected, "{hook}");
        let packets: u64 = expected.values().flatten().map(|[up, _, down, _]| up + down).sum();
        println!("{hook}: {} connections, {packets} packets, as both ends counted them", cases.len());
    }
}

#[test]
fn connections_with_syn_are_counted_once() {
    let lab = lab();
    let agents = agents(&lab);
    let cases = cases(&lab);
    cases.iter().for_each(|case| case.talk(First::Client));
    compare(agents, &cases, |_| false);
}

#[test]
fn without_syn_the_hook_gives_the_client() {
    let lab = lab();
    let mut cases = cases(&lab);
    for case in &mut cases {
        case.before = Some(case.connection.facts().unwrap());
    }
    let agents = agents(&lab);
    cases.iter().for_each(|case| case.talk(First::Client));
    // Without a SYN, packets that enter from a watched network go up, and packets that leave into one come
    // down. An external client of an internal host is taken for its server.
    let outside = lab.server_ip(Family::V4);
    compare(agents, &cases, |case| case.connection.client_address().unwrap().ip() == outside);
}

#[test]
fn without_syn_first_sender_is_client_between_lans() {
    let lab = lab();
    let mut cases = cases(&lab);
    for case in &mut cases {
        case.before = Some(case.connection.facts().unwrap());
    }
    let agents = agents(&lab);
    cases.iter().for_each(|case| case.talk(First::Server));
    // Between two watched networks, the sender of the first packet is the client.
    let (inside, outside) = (lab.inside_ip(Family::V4), lab.server_ip(Family::V4));
    compare(agents, &cases, |case| {
        case.server.ip() == inside || case.connection.client_address().unwrap().ip() == outside
    });
}

#[test]
fn full_table_counts_each_packet_in_one_overflow() {
    let lab = lab();
    let agents = agents_with(&lab, "flow_table: { flows: 1, source_share_percent: 100 }\n");
    let (inside, ip) = (lab.inside.as_ref().unwrap(), lab.inside_ip(Family::V4));
    let pairs = PORTS.into_iter().flat_map(|own| PORTS.map(|port| (own, port)));
    let open = |(own, port)| Case::open(&lab.client, own, inside, SocketAddr::new(ip, port));
    let cases: Vec<Case> = pairs.map(open).collect();
    cases.iter().for_each(|case| case.talk(First::Client));
    let expected = cases.iter().map(Case::truth).fold([0; 2], |[packets, bytes], truth| {
        let [up, up_bytes, down, down_bytes] = truth;
        [packets + up + down, bytes + up_bytes + down_bytes]
    });
    for (hook, mut agent, _) in agents {
        let sum = |family: &str| -> u64 {
            let metrics = agent.metrics().unwrap();
            let values = metrics.lines().filter_map(|line| line.strip_prefix(family)?.rsplit_once(' '));
            values.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
        };
        let counted = || [sum("mailflow_packets_total{"), sum("mailflow_bytes_total{")];
        wait_for("every packet", Duration::from_secs(60), || Ok((counted() >= expected).then_some(())))
            .unwrap_or_else(|error| println!("{hook}: {error}"));
        assert_eq!(counted(), expected, "{hook}");
        let overflow = sum("mailflow_accounted_packets{location=\"overflow\"");
        assert!(overflow > expected[0] / 2, "{hook}: {overflow} of {} packets in the overflow", expected[0]);
        assert!(agent.stop().unwrap().success());
    }
}
