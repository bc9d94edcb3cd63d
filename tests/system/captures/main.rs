//! Real captures, replayed through the loaded program, compared with an independent recount.

mailflow_test_support::needs_root!();

mod attempts;
mod files;
mod order;
mod roundtrip;
#[path = "../../common/agent_run.rs"]
#[allow(dead_code, reason = "shared with the suite `backtest`")]
mod run;
mod snaplen;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::{agent_binary, workspace},
    pcap,
};
use serde_json::Value;

/// Ports of a mail protocol: on other ports the recount has other names for unknown applications.
const MAIL: [u64; 8] = [25, 465, 587, 994, 110, 995, 143, 993];

/// Client and server, each with its port.
type Tuple = (IpAddr, u64, IpAddr, u64);
/// Packets and bytes up and down, and the application.
type Counted = ((u64, u64, u64, u64), String);
type Flows = BTreeMap<Tuple, Vec<Counted>>;

fn captures() -> Option<PathBuf> {
    let folder = workspace().join("../shared/captures");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("SKIPPED: no captures at {}", folder.display());
    None
}

fn tuple(flow: &Value, names: [&str; 4]) -> Tuple {
    let ip = |name: &str| flow[name].as_str().unwrap().parse().unwrap();
    let port = |name: &str| flow[name].as_u64().unwrap();
    (ip(names[0]), port(names[1]), ip(names[2]), port(names[3]))
}

/// Returns the recount's flows, by capture.
fn expected(folder: &Path) -> BTreeMap<String, Flows> {
    let mut captures: BTreeMap<String, Flows> = BTreeMap::new();
    for line in fs::read_to_string(folder.join("expected-flows.jsonl")).unwrap().lines() {
        let flow: Value = serde_json::from_str(line).unwrap();
        let sum =
            |side: &str, names: [&str; 2]| names.map(|name| flow[side][name].as_u64().unwrap()).iter().sum();
        let [packets, bytes] = [["pkts", "frag_pkts"], ["ip_bytes", "frag_ip_bytes"]];
        let counts = (sum("up", packets), sum("up", bytes), sum("down", packets), sum("down", bytes));
        let flows = captures.entry(flow["capture"].as_str().unwrap().to_owned()).or_default();
        let app = flow["app"].as_str().unwrap().to_owned();
        flows.entry(tuple(&flow, ["client", "cport", "server", "sport"])).or_default().push((counts, app));
    }
    captures
}

/// Returns the flows of a replay.
fn replayed(capture: &Path, ports: &BTreeSet<u64>) -> Flows {
    let ports: Vec<String> = ports.iter().map(u64::to_string).collect();
    let output = Command::new(agent_binary().unwrap())
        .args(["replay", "--flow-log", "-", "--alerts", "off", "--ports", &ports.join(",")])
        .arg(capture)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut flows = Flows::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let flow: Value = serde_json::from_str(line).unwrap();
        if flow["flow"]["reason"] == "active" || flow["proto"] != "TCP" {
            continue;
        }
        let count = |name: &str| flow["flow"][name].as_u64().unwrap();
        let counts = (
            count("pkts_toserver"),
            count("bytes_toserver"),
            count("pkts_toclient"),
            count("bytes_toclient"),
        );
        let app = flow["app_proto"].as_str().unwrap().to_owned();
        flows
            .entry(tuple(&flow, ["src_ip", "src_port", "dest_ip", "dest_port"]))
            .or_default()
            .push((counts, app));
    }
    flows
}

#[test]
fn replayed_flows_equal_recount() {
    let Some(folder) = captures() else { return };
    let mut compared = 0;
    for (name, mut expected) in expected(&folder) {
        let ports = expected.keys().map(|tuple| tuple.3).collect();
        let mut found = replayed(&folder.join(&name), &ports);
        assert!(expected.keys().eq(found.keys()), "{name}: {:?}\n{:?}", expected.keys(), found.keys());
        for (tuple, flows) in &mut expected {
            let found = found.get_mut(tuple).unwrap();
            flows.sort();
            found.sort();
            assert_eq!(flows.len(), found.len(), "{name} {tuple:?}: flows of one tuple are kept apart");
            for ((counts, app), (found_counts, found_app)) in flows.iter().zip(found.iter()) {
                assert_eq!(counts, found_counts, "{name} {tuple:?}");
                // A question mark: the recount knows only the port, no payload.
                let guess = app.strip_suffix('?').is_some_and(|_| found_app == "unseen");
                let same = guess || app.trim_end_matches('?') == found_app || !MAIL.contains(&tuple.3);
                assert!(same, "{name} {tuple:?}: {app}, not {found_app}");
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{compared} flows");
}

#[test]
fn flow_ends_at_idle_timeout_across_clock_jumps() {
    const DAY: u64 = 24 * 60 * 60 * 1_000_000;
    // Beyond the range of a 32-bit tick, and some years.
    for leap in [2 * DAY, 25 * DAY, 1000 << 32, 1_500 * DAY] {
        let begin = 1_500_000_000_000_000;
        let frame = |time: u64, port: u16, flags: u8| {
            let client = format!("10.20.0.2:{port}");
            (time, FrameBuilder::tcp(&client, "93.184.215.25:25", flags).build())
        };
        let frames =
            [frame(begin, 40_000, ACK), frame(begin + leap, 40_000, ACK), frame(begin + leap, 40_001, ACK)];
        let path = std::env::temp_dir().join(format!("mailflow-leap-{}.pcap", std::process::id()));
        pcap::write(&path, &frames).unwrap();
        let output = Command::new(agent_binary().unwrap())
            .args(["replay", "--flow-log", "-", "--alerts", "off"])
            .arg(&path)
            .output()
            .unwrap();
        fs::remove_file(&path).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let flows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let summaries: Vec<_> = flows
            .iter()
            .map(|flow| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (
                    text(&flow["flow"]["reason"]),
                    flow["src_port"].as_u64().unwrap(),
                    text(&flow["flow"]["end"]),
                )
            })
            .collect();
        let [first, rest @ ..] = &summaries[..] else { panic!("{leap}: {lines}") };
        assert_eq!((first.0.as_str(), first.1, &first.2[..10]), ("idle", 40_000, "2017-07-14"), "{leap}");
        assert_eq!(rest.len(), 2, "{leap}: {lines}");
        assert!(rest.iter().all(|flow| flow.0 == "shutdown" && flow.2 != first.2), "{leap}: {lines}");
    }
}

#[test]
fn truncated_capture_counts_readable_frames() {
    let Some(folder) = captures() else { return };
    let whole = fs::read(folder.join("mail/arkime__smtp-data-250.pcap")).unwrap();
    let cut = std::env::temp_dir().join(format!("mailflow-cut-{}.pcap", std::process::id()));
    fs::write(&cut, &whole[..whole.len() - 10]).unwrap();
    let output = Command::new(agent_binary().unwrap())
        .args(["replay", "--flow-log", "-", "--alerts", "off"])
        .arg(&cut)
        .output()
        .unwrap();
    fs::remove_file(&cut).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("damaged after frame 29"), "{error}");
    let flow: Value =
        serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    let packets = ["pkts_toserver", "pkts_toclient"].map(|name| flow["flow"][name].as_u64().unwrap());
    assert_eq!(packets.iter().sum::<u64>(), 29);
}
