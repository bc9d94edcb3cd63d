//! Lines, parsed again: names and values that scripts rely on.

use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc};

use mailflow_agent::{
    config::Profile,
    outputs::{
        eve::{alert, flow},
        gateway::Gateway,
        profile::EventFormat,
    },
};
use mailflow_common::{App, PROTOCOL_UDP, Scope, Vlans};
use mailflow_engine::{
    eval::GroupKey,
    event::{Alert, AlertState, Severity, Source, Value as Held},
    flow::RecordFields,
    flow::{FlowRecord, RecordReason},
    time::{Time, WallClockOffset},
};
use serde_json::{Value, json};

use crate::fixture::{EPOCH, alert, at, doc, documented, key, record, term};

fn gateway() -> Gateway {
    let gateway = Gateway::new(Some("gw1.example"));
    gateway.watch(["lan0"], []);
    gateway
}

fn parse(line: serde_json::Result<String>) -> Value {
    let line = line.unwrap();
    assert!(!line.contains('\n'), "one line: {line}");
    serde_json::from_str(&line).unwrap()
}

/// Adds the paths of all leaves, with `[]` for the members of an array of objects.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) if !at.ends_with("labels") => {
            for (name, field) in fields {
                paths(field, &if at.is_empty() { name.clone() } else { format!("{at}.{name}") }, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| paths(item, &format!("{at}[]"), found));
        }
        _ => {
            found.insert(at.to_owned());
        }
    }
}

#[test]
fn flow_line_has_every_field() {
    let mut record = record(key("10.0.0.9", 40_001, "192.0.2.1", 25));
    record.flow.key.scope = Scope::new(Vlans::default().push(20).push(30), 6, false);
    let mut line = parse(flow::line(&record, EPOCH, &gateway()));
    let id = line["flow_id"].take().as_u64().unwrap();
    assert!(id < 1 << 53);
    let expected = json!({
        "timestamp": "2026-11-21T03:32:01.500000+0000",
        "event_type": "flow",
        "host": "gw1.example",
        "in_iface": "lan0",
        "flow_id": null,
        "src_ip": "10.0.0.9",
        "src_port": 40_001,
        "dest_ip": "192.0.2.1",
        "dest_port": 25,
        "proto": "TCP",
        "app_proto": "smtp",
        "community_id": "1:POg37YbT9N1sbiQVkiOP6MkMf2s=",
        "vlan": [20, 30],
        "flow": {
            "pkts_toserver": 101,
            "bytes_toserver": 102,
            "pkts_toclient": 201,
            "bytes_toclient": 202,
            "start": "2026-11-21T03:31:00.123000+0000",
            "end": "2026-11-21T03:32:01.500000+0000",
            "age": 61,
            "state": "closed",
            "reason": "closed",
        },
        "mailflow": {
            "payload_up": 103,
            "payload_down": 203,
            "data_packets_up": 104,
            "data_packets_down": 204,
            "data_bytes_up": 105,
            "data_bytes_down": 205,
            "messages_estimated": 7,
            "messages_rejected": 1,
            "app_evidence": "server_greeting",
            "complete": true,
            "syn": true,
            "synack": true,
            "mptcp_join": false,
            "mac": "02:00:00:00:ab:01",
        },
    });
    assert_eq!(line, expected);
}

#[test]
fn ipv6_udp_flow_line_omits_missing_fields() {
    let mut record = record(key("2001:db8::9", 40_001, "2001:db8:1::1", 465));
    record.flow.key.scope = Scope::new(Vlans::default(), PROTOCOL_UDP, true);
    record.flow.mac = None;
    record.flow.down = Default::default();
    record.flow.facts = Default::default();
    record.app = App::Unseen;
    record.reason = RecordReason::Idle;
    record.complete = false;
    let line = parse(flow::line(&record, EPOCH, &gateway()));
    assert_eq!(line["src_ip"], "2001:db8::9");
    assert_eq!(line["dest_ip"], "2001:db8:1::1");
    assert_eq!(line["proto"], "UDP");
    assert_eq!(line.get("vlan"), None);
    assert_eq!(line["flow"]["state"], "new");
    assert_eq!(line["flow"]["reason"], "idle");
    let extra = &line["mailflow"];
    assert_eq!(extra["mac"], Value::Null);
    assert_eq!(extra["app_evidence"], "port");
    assert_eq!(
        (&extra["complete"], &extra["syn"], &extra["synack"]),
        (&json!(false), &json!(false), &json!(false))
    );
}

#[test]
fn flow_keeps_its_id_and_next_flow_gets_another() {
    let id = |record: &FlowRecord| parse(flow::line(record, EPOCH, &gateway()))["flow_id"].as_u64();
    let first = record(key("10.0.0.9", 40_001, "192.0.2.1", 25));
    let mut later = first.clone();
    later.flow.up.packets += 1;
    later.flow.up.last = Some(at(90_000));
    assert_eq!(id(&first), id(&later));
    later.flow.first = at(80_000);
    assert_ne!(id(&first), id(&later), "the same ports again");
}

#[test]
fn alert_line_has_every_field() {
    let alert = alert();
    let mut line = parse(alert::line(&alert, EPOCH, &gateway(), usize::MAX));
    let flows: Vec<Value> =
        alert.flows.iter().map(|record| parse(flow::line(record, EPOCH, &gateway()))).collect();
    assert_eq!(line["flows"].take(), json!(flows), "the flow log's own lines");
    let expected = json!({
        "timestamp": "2026-11-21T03:31:05.000000+0000",
        "event_type": "alert",
        "host": "gw1.example",
        "in_iface": "lan0",
        "src_ip": "10.0.0.9",
        "alert": {
            "action": "allowed",
            "gid": 32_473,
            "signature_id": 1_026_403_007,
            "rev": 3,
            "signature": "smtp burst",
            "category": "Potentially Bad Traffic",
            "severity": 1,
            "rule": "smtp-burst",
            "rule_version": 3,
            "state": "firing",
            "fingerprint": "0123456789abcdef",
            "starts_at": "2026-11-21T03:31:04.000000+0000",
            "ends_at": null,
            "window": 3_600,
            "condition": "count",
            "unit": "flows",
            "value": 10,
            "threshold": 10,
            "at_bound": true,
            "suppressed": false,
            "labels": {"team": "mail \"1\""},
            "attack": ["T1048.003"],
        },
        "mailflow": {
            "severity": "high",
            "interfaces": ["lan0"],
            "subject": "10.0.0.9",
            "source": "10.0.0.9",
            "group": "workstations",
            "role": "workstation",
            "matched_network": "10.0.0.0/8  everything",
            "first": "2026-11-21T03:31:01.000000+0000",
            "last": "2026-11-21T03:31:03.000000+0000",
            "ports": [25, 587],
            "applications": ["smtp", "smtp+starttls"],
            "up": {"packets": 11, "bytes": 12},
            "down": {"packets": 13, "bytes": 14},
            "messages_estimated": 15,
            "destinations": [{"ip": "192.0.2.1", "flows": 6}, {"ip": "2001:db8::1", "flows": 4}],
            "complete": false,
            "evidence_cut": true,
            "flows_omitted": 0,
            "like_a_relay": "30 of 31 sessions delivered mail, to 12 servers",
            "conditions": [
                {
                    "name": "count", "unit": "flows", "window": 3_600, "value": 10, "threshold": 10, "at_bound": true,
                    "holds": true,
                },
                {
                    "name": "ratio failed/attempts", "unit": "", "window": 3_600, "value": 0.25, "threshold": 0.5,
                    "at_bound": false, "holds": false,
                },
            ],
        },
        "flows": null,
    });
    assert_eq!(line, expected);
}

#[test]
fn resolved_prefix_alert_has_end_and_address() {
    let newest = key("2001:db8:5::77", 40_001, "2001:db8:1::1", 25);
    let resolved = Alert {
        state: AlertState::Resolved,
        ends_at: Some(at(9_000)),
        deciding_term: term("count", Held::Exactly(3), 10, 1),
        group_key: GroupKey::Source(Source::of(newest.client.ip(), 64)),
        source: Some(Source::of(newest.client.ip(), 64)),
        group: None,
        matched_network: None,
        flows: vec![Arc::new(record(key("2001:db8:5::1", 1, "2001:db8:1::1", 25))), Arc::new(record(newest))],
        ..alert()
    };
    let line = parse(alert::line(&resolved, EPOCH, &gateway(), usize::MAX));
    assert_eq!(line["src_ip"], "2001:db8:5::77");
    assert_eq!(line["mailflow"]["source"], "2001:db8:5::/64");
    assert_eq!(line["mailflow"]["group"], Value::Null);
    assert_eq!(line["mailflow"]["matched_network"], Value::Null);
    assert_eq!(line["alert"]["state"], "resolved");
    assert_eq!(line["alert"]["ends_at"], "2026-11-21T03:31:09.000000+0000");
    assert_eq!((&line["alert"]["value"], &line["alert"]["at_bound"]), (&json!(3), &json!(false)));

    let bare = Alert { flows: Vec::new(), ..resolved };
    assert_eq!(
        parse(alert::line(&bare, EPOCH, &gateway(), usize::MAX))["src_ip"],
        "2001:db8:5::",
        "no flow left to name one"
    );
}

#[test]
fn alert_by_destination_has_server_and_newest_client() {
    let server = "9.9.9.9".parse().unwrap();
    let suppressed = Some("newsletter, ticket 4711".into());
    let newest = Some(Source::of("10.0.0.9".parse().unwrap(), 128));
    let alert = Alert { group_key: GroupKey::Destination(server), source: newest, suppressed, ..alert() };
    let line = parse(alert::line(&alert, EPOCH, &gateway(), usize::MAX));
    assert_eq!((&line["src_ip"], &line["dest_ip"]), (&json!("10.0.0.9"), &json!("9.9.9.9")));
    assert_eq!(line["mailflow"]["subject"], "9.9.9.9");
    assert_eq!(line["alert"]["suppressed"], true);
    assert_eq!(line["alert"]["suppressed_by"], "newsletter, ticket 4711");
}

#[test]
fn severity_is_suricatas_number_and_name() {
    for (severity, number) in
        [(Severity::Critical, 1), (Severity::High, 1), (Severity::Medium, 2), (Severity::Low, 3)]
    {
        let line = parse(alert::line(&Alert { severity, ..alert() }, EPOCH, &gateway(), usize::MAX));
        assert_eq!(
            (&line["alert"]["severity"], &line["mailflow"]["severity"]),
            (&json!(number), &json!(severity.name()))
        );
    }
}

#[test]
fn flow_has_interface_and_alert_those_of_its_flows() {
    let several = Gateway::new(Some("gw1"));
    several.watch(["lan0", "lan1", "lan2"], [(3, "lan0"), (4, "lan1"), (5, "lan2")]);
    let named = |numbers: [u32; 2]| {
        let mut alert = alert();
        for (record, number) in alert.flows.iter_mut().zip(numbers) {
            let mut known = FlowRecord::clone(record);
            known.flow.interface = NonZeroU32::new(number);
            *record = known.into();
        }
        let line = parse(alert::line(&alert, EPOCH, &several, usize::MAX));
        let flows = [0, 1].map(|flow| line["flows"][flow]["in_iface"].clone());
        (line["in_iface"].clone(), line["mailflow"]["interfaces"].clone(), flows)
    };
    let (none, lan) = (Value::Null, |name: &str| json!(name));
    assert_eq!(named([4, 4]), (lan("lan1"), json!(["lan1"]), [lan("lan1"), lan("lan1")]));
    assert_eq!(named([5, 3]), (none.clone(), json!(["lan0", "lan2"]), [lan("lan2"), lan("lan0")]));
    assert_eq!(named([4, 0]), (lan("lan1"), json!(["lan1"]), [lan("lan1"), none.clone()]));
    // If the interface of no flow is known, the mail passed one of the watched ones.
    assert_eq!(named([0, 9]), (none.clone(), json!(["lan0", "lan1", "lan2"]), [none.clone(), none]));
}

#[test]
fn rejected_messages_are_written_only_for_plaintext() {
    let mut record = record(key("10.0.0.9", 40_001, "192.0.2.1", 25));
    let mut refused = |app, inputs| {
        (record.app, record.fields) = (app, inputs);
        parse(flow::line(&record, EPOCH, &gateway()))["mailflow"]["messages_rejected"].clone()
    };
    assert_eq!(refused(App::Smtp, RecordFields::all()), json!(1));
    for app in [App::SmtpStartTls, App::Smtps, App::Unseen, App::Imap] {
        assert_eq!(refused(app, RecordFields::all()), Value::Null, "{app:?}");
    }
    assert_eq!(refused(App::Smtp, RecordFields::all() - RecordFields::MESSAGES), Value::Null);
}

/// Returns an alert with every possible field.
fn everything() -> Alert {
    let pair = (Source::of("10.0.0.9".parse().unwrap(), 64), "9.9.9.9".parse().unwrap());
    Alert { group_key: GroupKey::Pair(Box::new(pair)), suppressed: Some("relay".into()), ..alert() }
}

#[test]
fn documentation_lists_exactly_the_fields() {
    let page = doc("events.md");
    let (flow_page, alert_page) = page.split_once("## Alert lines").unwrap();
    let mut tagged = record(key("10.0.0.9", 40_001, "192.0.2.1", 25));
    tagged.flow.key.scope = Scope::new(Vlans::default().push(20), 6, false);
    for (page, line) in [
        (flow_page, parse(flow::line(&tagged, EPOCH, &gateway()))),
        (alert_page, parse(alert::line(&everything(), EPOCH, &gateway(), usize::MAX))),
    ] {
        let mut written = BTreeSet::new();
        paths(&line, "", &mut written);
        // Contributing flows are flow lines, documented as such.
        if written.iter().any(|path| path.starts_with("flows[]")) {
            written.retain(|path| !path.starts_with("flows[]"));
            written.insert("flows[]".to_owned());
        }
        let listed: BTreeSet<_> = documented(page).map(str::to_owned).collect();
        assert_eq!(listed, written);
    }
}

/// The wall clock is set back and forward by an hour while an alert fires.
#[test]
fn alert_keeps_start_across_clock_steps() {
    let hour = 3_600_000_000_000;
    let firing = alert();
    for step in [-hour, hour] {
        let later = WallClockOffset::from_unix_nanos(EPOCH.unix_nanos(Time::ZERO) + step);
        let repeat = Alert { time: at(6_000), ..firing.clone() };
        let end = Alert { state: AlertState::Resolved, ends_at: Some(at(9_000)), ..repeat.clone() };
        for alert in [&repeat, &end] {
            let [eve, ecs, ocsf] = Profile::ALL
                .map(|profile| parse(EventFormat { profile, gateway: gateway() }.alert_line(alert, later)));
            assert_eq!(eve["alert"]["starts_at"], "2026-11-21T03:31:04.000000+0000");
            assert_eq!(ecs["event"]["start"], "2026-11-21T03:31:04.000000Z");
            assert_eq!(ocsf["start_time"], 1_795_231_864_000_i64);
            assert_eq!(ocsf["finding_info"]["uid"], "0123456789abcdef-1795231864000", "one finding");
            assert_eq!(ocsf["unmapped"]["alert"]["starts_at"], "2026-11-21T03:31:04.000000+0000");
        }
        // Readers would refuse an end before the start.
        let end = parse(alert::line(&end, later, &gateway(), usize::MAX))["alert"]["ends_at"].clone();
        let expected =
            if step < 0 { "2026-11-21T03:31:04.000000+0000" } else { "2026-11-21T04:31:09.000000+0000" };
        assert_eq!(end, expected);
    }
}
