//! Shipped schema and SQL, run by ClickHouse in process, compared with the agent's results.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mailflow_test_support::lab::{output, workspace};
use serde_json::{Value, json};

use crate::package::package;

/// Start of the generated flows, in microseconds since 1970.
const BEGIN: u64 = 1_700_000_000_000_000;
const SECOND: u64 = 1_000_000;

/// Returns the answer to a shipped query over these lines.
fn ask(flows: &Path, query: &str, parameters: &[&str]) -> Vec<Value> {
    let python =
        std::env::var_os("MAILFLOW_PYTHON").expect("`cargo xtask test packaging` sets MAILFLOW_PYTHON");
    let shipped = workspace().join("config/clickhouse");
    let mut ask = Command::new(python);
    ask.arg(workspace().join("tests/system/packaging/query.py")).arg(shipped.join("schema.sql")).arg(flows);
    let answer = output(ask.arg(shipped.join(query)).args(parameters)).unwrap();
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a command of the packaged agent.
fn agent(arguments: &[&str], files: &[PathBuf]) -> String {
    let mut agent = Command::new(package().with_file_name("mailflow-agent"));
    output(agent.args(arguments).args(files).env("RUST_LOG", "warn")).unwrap()
}

/// Temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mailflow-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

const SMTP: [&str; 4] = ["smtp", "smtp+starttls", "smtps", "unseen"];
const OTHERS: [&str; 4] = ["smtp", "other", "imap", "pop3s"];

/// Returns the mail of 400 hosts: bursts of every density with pauses, long flows, and flows that the rule
/// excludes for each reason.
fn history() -> Vec<Value> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut lines = Vec::new();
    let mut number = 0_u64;
    for host in 0..400_u64 {
        let source = match host % 7 {
            0 => format!("fd00:0:0:{host:x}::{:x}", random.u8(1..9)),
            _ => format!("10.0.{}.{}", host / 200, host % 200 + 1),
        };
        let gap = *random.choice(&[60, 100, 150, 180, 200, 220, 260, 300, 400]).unwrap() * SECOND;
        let mut end = BEGIN + random.u64(0..7_200 * SECOND);
        for _ in 0..random.u32(5..60) {
            number += 1;
            end += random.u64(1..2 * gap);
            if random.u8(..) < 8 {
                end += random.u64(3_000..5_200) * SECOND;
            }
            let start = end - random.u64(0..900) * SECOND;
            // Three of four match the rule.
            let meant = random.u8(..) < 192;
            let flow = Flow {
                source: &source,
                server: if meant {
                    "93.184.215.25"
                } else {
                    random.choice(&["2a00:1450::1", "203.0.113.9", "10.0.0.9"]).unwrap()
                },
                port: *random
                    .choice(if meant { &[25, 465, 587, 994] } else { &[25, 465, 587, 143] })
                    .unwrap(),
                app: random.choice(if meant { &SMTP } else { &OTHERS }).unwrap(),
                number,
                start,
            };
            let down = *random.choice(&[790, 800, 1_000, 1_000, 1_000]).unwrap();
            if end - start > 310 * SECOND {
                let up = *random.choice(&[700, 2_000]).unwrap();
                lines.push((
                    start + 300 * SECOND + 5,
                    flow.line(start + 300 * SECOND + 5, "active", up, 1_000),
                ));
            }
            lines.push((end, flow.line(end, "closed", 2_000, down)));
        }
    }
    lines.sort_by_key(|(at, _)| *at);
    lines.into_iter().map(|(_, line)| line).collect()
}

struct Flow<'a> {
    source: &'a str,
    server: &'a str,
    port: u16,
    app: &'a str,
    number: u64,
    start: u64,
}

impl Flow<'_> {
    /// Returns a flow line with ten packets each way.
    fn line(&self, end: u64, reason: &str, up: u64, down: u64) -> Value {
        json!({
            "timestamp": moment(end), "event_type": "flow", "flow_id": self.number,
            "src_ip": self.source, "src_port": 1_024 + self.number % 60_000,
            "dest_ip": self.server, "dest_port": self.port, "proto": "TCP", "app_proto": self.app,
            "community_id": "1:AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "flow": { "pkts_toserver": 10, "bytes_toserver": up, "pkts_toclient": 10, "bytes_toclient": down,
                "start": moment(self.start), "end": moment(end), "age": (end - self.start) / SECOND,
                "state": if reason == "closed" { "closed" } else { "established" }, "reason": reason },
            "mailflow": { "payload_up": 100, "payload_down": 100, "data_packets_up": 5, "data_packets_down": 5,
                "data_bytes_up": 360, "data_bytes_down": 360, "messages_estimated": 1,
                "app_evidence": "server_greeting", "complete": true, "syn": true, "synack": true,
                "mptcp_join": false, "mac": null }
        })
    }
}

/// Formats a time as in flow lines.
fn moment(micros: u64) -> String {
    let time = jiff::Timestamp::from_microsecond(micros as i64).unwrap();
    time.strftime("%Y-%m-%dT%H:%M:%S.%6f+0000").to_string()
}

/// Formats a time as ClickHouse does.
fn plain(time: &Value) -> String {
    time.as_str().unwrap().trim_end_matches("+0000").replace('T', " ")
}

#[test]
fn rule_sql_gives_the_agents_alerts() {
    let folder = Folder::new("clickhouse");
    let flows = folder.0.join("flows.json");
    let history = history();
    assert!(history.len() > 10_000, "{}", history.len());
    fs::write(&flows, history.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();

    let mut alerts = BTreeMap::new();
    for line in agent(&["backtest", "--drain", "--alerts", "-"], &[flows.clone()]).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["alert"]["rule"] == "smtp-burst" && line["alert"]["state"] == "resolved" {
            let source = line["mailflow"]["source"].as_str().unwrap().to_owned();
            alerts.insert((source, plain(&line["alert"]["starts_at"])), plain(&line["alert"]["ends_at"]));
        }
    }
    let parameters = ["window=3600", "threshold=10", "resolve_below=8", "resolve_after=600"];
    let mut found = BTreeMap::new();
    for row in ask(&flows, "smtp-burst.sql", &parameters) {
        found.insert(
            (row["source"].as_str().unwrap().to_owned(), plain(&row["starts_at"])),
            plain(&row["ends_at"]),
        );
    }
    assert!(alerts.len() > 40, "{alerts:?}");
    assert!(alerts.keys().any(|(source, _)| source.contains(':')), "no IPv6 source");
    let sources = alerts.keys().map(|(source, _)| source).collect::<std::collections::BTreeSet<_>>();
    assert!(sources.len() < alerts.len(), "no source with two alerts");
    println!("{} alerts of {} lines", alerts.len(), history.len());
    assert_eq!(found, alerts);
}

/// Writes the lines of the shared captures to `flows`, and returns the last line of each flow; `None` if the
/// captures are missing.
fn replay(folder: &Path, flows: &Path) -> Option<BTreeMap<u64, Value>> {
    let captures = workspace().join("../shared/captures");
    let mut files = Vec::new();
    for part in ["mail", "struct"] {
        let Ok(entries) = fs::read_dir(captures.join(part)) else {
            println!("SKIPPED: no captures at {}", captures.display());
            return None;
        };
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.sort();
    let one = folder.join("one.json");
    let mut all = String::new();
    // One run for each capture: they are not consecutive.
    for file in files {
        fs::write(&one, "").unwrap();
        // A damaged capture ends with 1, and its readable frames are in the log.
        let mut replay = Command::new(package().with_file_name("mailflow-agent"));
        replay.args(["replay", "--alerts", "off", "--flow-log", one.to_str().unwrap()]).arg(&file);
        assert!(replay.env("RUST_LOG", "off").status().unwrap().code().is_some_and(|code| code < 2));
        all += &fs::read_to_string(&one).unwrap();
    }
    fs::write(flows, &all).unwrap();
    let lines = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    Some(lines.map(|line| (line["flow_id"].as_u64().unwrap(), line)).collect())
}

#[test]
fn schema_stores_every_flow_of_captures() {
    let folder = Folder::new("captures");
    let flows = folder.0.join("flows.json");
    let Some(expected) = replay(&folder.0, &flows) else { return };
    assert!(expected.len() > 50, "{}", expected.len());

    let query = folder.0.join("each.sql");
    fs::write(&query, "SELECT * EXCEPT (gateway) FROM mailflow.last").unwrap();
    let rows = ask(&flows, query.to_str().unwrap(), &[]);
    assert_eq!(rows.len(), expected.len());
    for row in &rows {
        let line = &expected[&number(&row["flow_id"])];
        for section in ["flow", "mailflow"] {
            for (name, value) in line[section].as_object().unwrap() {
                assert!(same(&row[section][name], value), "{section}.{name} of {line}\n{row}");
            }
        }
        let rest = line.as_object().unwrap().iter().filter(|(_, value)| !value.is_object());
        for (name, value) in rest {
            assert!(same(&row[name], value), "{name} of {line}\n{row}");
        }
    }

    let mut totals: BTreeMap<(String, String), [u64; 6]> = BTreeMap::new();
    for line in expected.values() {
        let key = ["src_ip", "app_proto"].map(|name| line[name].as_str().unwrap().to_owned());
        let numbers = ["pkts_toserver", "bytes_toserver", "pkts_toclient", "bytes_toclient"];
        let numbers = numbers.map(|name| line["flow"][name].as_u64().unwrap());
        let messages = line["mailflow"]["messages_estimated"].as_u64().unwrap();
        let total = totals.entry(key.into()).or_default();
        for (sum, value) in total.iter_mut().zip([1].into_iter().chain(numbers).chain([messages])) {
            *sum += value;
        }
    }
    let mut found = BTreeMap::new();
    for row in ask(&flows, "totals.sql", &[]) {
        let key = ["src_ip", "app_proto"].map(|name| row[name].as_str().unwrap().to_owned());
        let columns = ["flows", "packets_up", "bytes_up", "packets_down", "bytes_down", "messages"];
        found.insert(key.into(), columns.map(|name| number(&row[name])));
    }
    println!("{} flows of {} sources and applications", expected.len(), totals.len());
    assert_eq!(found, totals);
}

/// Returns true if ClickHouse's answer equals the line: numbers may be strings, and times have its format.
fn same(answer: &Value, line: &Value) -> bool {
    match line {
        Value::Number(_) => number(answer) == line.as_u64().unwrap(),
        Value::Array(items) => {
            let answers = answer.as_array().unwrap();
            answers.len() == items.len() && answers.iter().zip(items).all(|(answer, item)| same(answer, item))
        }
        Value::String(text) if text.ends_with("+0000") => answer == &Value::String(plain(line)),
        _ => answer == line,
    }
}

/// Parses a number: ClickHouse may write 64-bit numbers as strings.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("{value}"))
}
