//! Flows and their final records follow only from the packets: for every poll interval they equal those of a
//! model that sees every packet.
//!
//! The histories are captures that the agent replays: its loop, the kernel's program, simulated time.

mailflow_test_support::needs_root!();

mod history;
mod model;

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use history::Conversation;
use mailflow_test_support::{lab::agent_binary, pcap};
use model::Record;
use serde_json::Value;

/// Poll intervals, from the minimum to half a minute.
const INTERVALS: [&str; 4] = ["100ms", "1s", "10s", "30s"];
/// Milliseconds between two frames that are no mail. A replay polls when a frame arrives, so this is its
/// clock tick.
const BEAT: u64 = 50;

/// Files of one test, removed on drop.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mailflow-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Output of a replay with one poll interval.
struct Replayed {
    /// Final records, sorted.
    finals: Vec<String>,
    /// Client ports of the interim records.
    active: Vec<u16>,
    /// Rule, source and state of each alert.
    alerts: Vec<String>,
}

fn replay(files: &Files, interval: &str) -> Replayed {
    let path = |name: &str| files.0.join(name);
    let config = format!("poll_interval: {interval}\nflow_table: {{ flows: 4096 }}\n");
    std::fs::write(path("config.yaml"), config).unwrap();
    let mut replay = Command::new(agent_binary().unwrap());
    replay.args(["replay", "--role", "mirror", "--flow-log"]).arg(path("flows"));
    replay.arg("--alerts").arg(path("alerts")).arg("--config").arg(path("config.yaml"));
    let output = replay.arg(path("history.pcap")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(path(name)).unwrap();
        std::fs::remove_file(path(name)).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    let (active, mut finals): (Vec<_>, Vec<_>) =
        lines("flows").into_iter().partition(|line| line.contains("\"reason\":\"active\""));
    finals.sort();
    let mut alerts: Vec<String> = lines("alerts")
        .iter()
        .map(|line| {
            let alert: Value = serde_json::from_str(line).unwrap();
            format!("{} {} {}", alert["alert"]["rule"], alert["src_ip"], alert["alert"]["state"])
        })
        .collect();
    alerts.sort();
    let port =
        |line: &String| serde_json::from_str::<Value>(line).unwrap()["src_port"].as_u64().unwrap() as u16;
    Replayed { finals, active: active.iter().map(port).collect(), alerts }
}

/// Converts final records to the model's type, by client port.
fn read(finals: &[String]) -> BTreeMap<u16, Vec<Record>> {
    let mut records: BTreeMap<u16, Vec<Record>> = BTreeMap::new();
    for line in finals {
        let flow: Value = serde_json::from_str(line).unwrap();
        let port = flow["src_port"].as_u64().unwrap() as u16;
        records.entry(port).or_default().push(Record::read(&flow));
    }
    records.values_mut().for_each(|records| records.sort());
    records
}

/// Replays conversations with every poll interval; returns the final records by client port, and the output
/// for the longest interval. Fails if two intervals differ, or if they differ from the model.
fn agreed(name: &str, conversations: &[Conversation]) -> (BTreeMap<u16, Vec<Record>>, Replayed) {
    let files = Files::new(name);
    let mut frames: Vec<pcap::Stamped> = conversations.iter().flat_map(Conversation::frames).collect();
    let end = frames.iter().map(|(time, _)| *time).max().unwrap() + 400_000_000;
    frames.extend(history::beats(end, BEAT));
    pcap::write(&files.0.join("history.pcap"), &frames).unwrap();

    let mut replayed: Vec<Replayed> = INTERVALS.iter().map(|interval| replay(&files, interval)).collect();
    for (interval, other) in INTERVALS.iter().zip(&replayed) {
        for (one, two) in replayed[0].finals.iter().zip(&other.finals) {
            assert_eq!(one, two, "{} and {interval}", INTERVALS[0]);
        }
        assert_eq!(replayed[0].finals.len(), other.finals.len(), "{} and {interval}", INTERVALS[0]);
        assert_eq!(replayed[0].alerts, other.alerts, "{} and {interval}", INTERVALS[0]);
    }
    let slowest = replayed.pop().unwrap();
    let found = read(&slowest.finals);
    for conversation in conversations {
        let expected = model::records(&conversation.packets);
        assert_eq!(found.get(&conversation.port), Some(&expected), "{conversation:#?}");
    }
    let packets: usize = conversations.iter().map(|conversation| conversation.packets.len()).sum();
    println!(
        "{name}: {packets} packets of {} tuples in {} flows, the same at {INTERVALS:?}",
        conversations.len(),
        slowest.finals.len()
    );
    (found, slowest)
}

#[test]
fn named_cases_equal_model_at_every_interval() {
    let conversations = history::cases();
    let (found, replayed) = agreed("cases", &conversations);
    // The expected counts are also written by hand, independent of the model.
    for conversation in &conversations {
        let counts: Vec<_> = found[&conversation.port].iter().map(|record| record.packets).collect();
        assert_eq!(counts, conversation.expected, "{}", conversation.name);
    }
    // Interim records at 300, 600 and 900 s.
    let long = conversations.iter().find(|conversation| conversation.name == "1,000 s").unwrap();
    assert_eq!(replayed.active.iter().filter(|port| **port == long.port).count(), 3, "{:?}", replayed.active);
}

#[test]
fn random_histories_equal_model_at_every_interval() {
    let (_, replayed) = agreed("random", &history::random(400));
    assert!(replayed.finals.len() > 600, "{} flows", replayed.finals.len());
}

#[test]
fn alerts_are_equal_at_every_interval() {
    let (_, replayed) = agreed("burst", &history::burst(14));
    assert_eq!(replayed.alerts, ["\"smtp-burst\" \"10.20.0.2\" \"firing\""]);
}
