//! EVE lines, compared with Suricata's schema: field names and types of headers, alerts and flows from
//! `etc/schema.json` of Suricata 7.0; `host` and `in_iface` from the user guide's chapter on EVE. The schema
//! is in no package, and its licence differs. So this is a table of facts, made by hand.

use std::fs;

use mailflow_agent::config::Profile;
use serde_json::Value;

use crate::schemas::lines;

/// JSON Schema type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Integer,
    Numbers,
    Flag,
}

use Type::{Flag, Integer, Numbers, Text};

const HEADER: &[(&str, Type)] = &[
    ("app_proto", Text),
    ("community_id", Text),
    ("dest_ip", Text),
    ("dest_port", Integer),
    ("event_type", Text),
    ("flow_id", Integer),
    ("host", Text),
    ("in_iface", Text),
    ("proto", Text),
    ("src_ip", Text),
    ("src_port", Integer),
    ("timestamp", Text),
    ("vlan", Numbers),
];

const ALERT: &[(&str, Type)] = &[
    ("action", Text),
    ("category", Text),
    ("gid", Integer),
    ("rev", Integer),
    ("rule", Text),
    ("severity", Integer),
    ("signature", Text),
    ("signature_id", Integer),
];

const FLOW: &[(&str, Type)] = &[
    ("age", Integer),
    ("alerted", Flag),
    ("bytes_toclient", Integer),
    ("bytes_toserver", Integer),
    ("end", Text),
    ("pkts_toclient", Integer),
    ("pkts_toserver", Integer),
    ("reason", Text),
    ("start", Text),
    ("state", Text),
];

/// Fields of alerts that the schema lacks, and that docs/integrate/events.md lists as mailflow's own.
const OWN_OF_ALERTS: [&str; 14] = [
    "rule_version",
    "state",
    "fingerprint",
    "starts_at",
    "ends_at",
    "window",
    "condition",
    "unit",
    "value",
    "threshold",
    "at_bound",
    "suppressed",
    "suppressed_by",
    "labels",
];

fn is_of(value: &Value, kind: Type) -> bool {
    match kind {
        Text => value.is_string(),
        // A number without a fraction; readers may have only 53 bits.
        Integer => value.as_u64().is_some_and(|number| number < 1 << 53),
        Numbers => value.as_array().is_some_and(|all| all.iter().all(Value::is_number)),
        Flag => value.is_boolean(),
    }
}

/// Returns true if the text matches the schema's pattern of a timestamp: `2026-11-21T03:31:00.123456+0000`.
fn is_timestamp(text: &str) -> bool {
    let (day, zone) = text.split_at(text.rfind(['+', '-']).unwrap_or(0));
    let form: String = day.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    form == "0000-00-00T00:00:00.000000" && zone.len() == 5 && zone[1..].bytes().all(|c| c.is_ascii_digit())
}

/// Adds the faults of one object, whose field names are the schema's or in `own`.
fn faults(object: &Value, known: &[(&str, Type)], own: &[&str], at: &str, found: &mut Vec<String>) {
    for (name, value) in object.as_object().unwrap() {
        match known.iter().find(|(known, _)| known == name) {
            Some((_, kind)) if !is_of(value, *kind) => {
                found.push(format!("{at}{name}: {value} is not {kind:?}"))
            }
            Some(_) => {}
            None if own.contains(&name.as_str()) => {}
            None => found.push(format!("{at}{name}: neither the schema's nor ours")),
        }
    }
}

fn check(line: &Value, found: &mut Vec<String>) {
    let kind = line["event_type"].as_str().unwrap_or_default();
    let own: &[&str] = if kind == "alert" { &["alert", "mailflow", "flows"] } else { &["flow", "mailflow"] };
    faults(line, HEADER, own, "", found);
    if !line["timestamp"].as_str().is_some_and(is_timestamp) {
        found.push(format!("timestamp: {}", line["timestamp"]));
    }
    match kind {
        "alert" => {
            let own: Vec<&str> = OWN_OF_ALERTS.into_iter().chain(["attack"]).collect();
            faults(&line["alert"], ALERT, &own, "alert.", found);
            // Fields that readers of alerts rely on.
            for (name, _) in ALERT {
                if line["alert"].get(name).is_none() {
                    found.push(format!("alert.{name} is missing"));
                }
            }
            line["flows"].as_array().unwrap().iter().for_each(|flow| check(flow, found));
        }
        "flow" => faults(&line["flow"], FLOW, &[], "flow.", found),
        other => found.push(format!("event_type: {other}")),
    }
}

#[test]
fn eve_lines_are_valid() {
    let files = lines(Profile::Eve, "eve");
    let (mut found, mut alerts, mut flows) = (Vec::new(), 0, 0);
    for file in &files {
        for line in fs::read_to_string(file).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["event_type"] == "alert" {
                alerts += 1
            } else {
                flows += 1
            }
            check(&line, &mut found);
        }
    }
    found.sort_unstable();
    found.dedup();
    assert!(found.is_empty(), "{found:#?}");
    assert!(alerts >= 2 && flows >= 2, "{alerts} {flows}");
    fs::remove_dir_all(files[0].parent().unwrap()).unwrap();
}

#[test]
fn eve_line_with_wrong_types_is_invalid() {
    let mut found = Vec::new();
    // A line of an earlier version.
    check(
        &serde_json::json!({
            "timestamp": "2026-11-21T03:31:05.000000+0000", "event_type": "alert", "src_ip": "10.0.0.9",
            "alert": { "signature": "smtp burst", "rule": "smtp-burst", "severity": "high", "odd": 1 },
            "mailflow": {}, "flows": [],
        }),
        &mut found,
    );
    assert_eq!(
        found,
        [
            "alert.odd: neither the schema's nor ours",
            "alert.severity: \"high\" is not Integer",
            "alert.action is missing",
            "alert.category is missing",
            "alert.gid is missing",
            "alert.rev is missing",
            "alert.signature_id is missing",
        ]
    );
}
