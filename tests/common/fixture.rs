//! Flow, record and alert with a different number in every field.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use mailflow_common::{App, Facts, FlowKey, PROTOCOL_TCP, Scope, Vlans, first_payload};
use mailflow_engine::{
    eval::GroupKey,
    event::{Alert, AlertState, CounterDelta, FlowTotals, RelayHint, Severity, Source, TermValue, Value},
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason},
    network::AssetRole,
    settings::{Service, Services},
    time::{Time, WallClockOffset},
};
use mailflow_test_support::lab::workspace;

/// Start of the monotonic clock: 2026-11-21 03:31:00 UTC.
pub(crate) const EPOCH: WallClockOffset = WallClockOffset::from_unix_nanos(1_795_231_860_000_000_000);

/// Returns the time `millis` milliseconds after the start.
pub(crate) fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

pub(crate) fn key(client: &str, client_port: u16, server: &str, server_port: u16) -> FlowKey {
    let (client, server): (IpAddr, IpAddr) = (client.parse().unwrap(), server.parse().unwrap());
    FlowKey {
        client: client.into(),
        server: server.into(),
        client_port,
        server_port,
        scope: Scope::new(Vlans::default(), PROTOCOL_TCP, client.is_ipv6()),
    }
}

pub(crate) fn record(key: FlowKey) -> FlowRecord {
    let direction = |base: u64, last| DirectionStats {
        packets: base + 1,
        bytes: base + 2,
        payload: base + 3,
        data_packets: base + 4,
        data_bytes: base + 5,
        last: Some(last),
    };
    let facts = Facts {
        syn: 1,
        syn_ack: 1,
        fin_up: 1,
        fin_down: 1,
        first_payload_up: first_payload::SMTP,
        first_payload_down: first_payload::SMTP,
        ..Facts::default()
    };
    let flow = Flow {
        key,
        up: direction(100, at(61_500)),
        down: direction(200, at(61_250)),
        first: at(123),
        messages: 7,
        rejected: 1,
        mac: Some([2, 0, 0, 0, 0xab, 1]),
        interface: None,
        facts,
    };
    let (app, reason) = (App::Smtp, RecordReason::Closed);
    FlowRecord { flow, app, reason, complete: true, fields: RecordFields::all() }
}

pub(crate) fn alert() -> Alert {
    let source = "10.0.0.9".parse().unwrap();
    let flows = [key("10.0.0.9", 40_001, "192.0.2.1", 25), key("10.0.0.9", 40_002, "192.0.2.2", 587)];
    Alert {
        rule: "smtp-burst".into(),
        rule_version: 3,
        fingerprint: "0123456789abcdef".into(),
        state: AlertState::Firing,
        severity: Severity::High,
        time: at(5_000),
        starts_at: at(4_000),
        starts_at_unix: EPOCH.unix_nanos(at(4_000)),
        ends_at: None,
        group_key: GroupKey::Source(Source::of(source, 64)),
        source: Some(Source::of(source, 64)),
        matched_network: Some("10.0.0.0/8  everything".into()),
        group: Some("workstations".into()),
        role: Some(AssetRole::Workstation),
        suppressed: None,
        deciding_term: term("count", Value::AtLeast(10), 10, 1),
        terms: vec![
            term("count", Value::AtLeast(10), 10, 1),
            term("ratio failed/attempts", Value::Exactly(250_000), 500_000, 1_000_000),
        ],
        labels: BTreeMap::from([("team".into(), "mail \"1\"".into())]),
        attack: vec!["T1048.003".into()],
        first: at(1_000),
        last: at(3_000),
        ports: vec![25, 587],
        apps: vec![App::Smtp, App::SmtpStartTls],
        destinations: vec![("192.0.2.1".parse().unwrap(), 6), ("2001:db8::1".parse().unwrap(), 4)],
        sums: FlowTotals {
            up: CounterDelta { packets: 11, bytes: 12 },
            down: CounterDelta { packets: 13, bytes: 14 },
            messages: 15,
        },
        flows: flows.into_iter().map(|key| Arc::new(record(key))).collect(),
        complete: false,
        is_truncated: true,
        relay: Some(RelayHint { attempts: 31, delivered: 30, servers: 12 }),
    }
}

/// Returns a term of a rule with a window of an hour.
pub(crate) fn term(name: &str, value: Value, threshold: u64, scale: u64) -> TermValue {
    let (window, holds) = (Duration::from_secs(3_600), value.number() >= threshold);
    TermValue { name: name.into(), window, value, threshold, scale, holds }
}

pub(crate) fn services() -> Services {
    Services::from([
        (25, Service::Smtp),
        (465, Service::Smtps),
        (587, Service::Submission),
        (993, Service::Imaps),
    ])
}

/// Returns a page of the documentation.
pub(crate) fn doc(name: &str) -> String {
    let path = workspace().join("docs/integrate").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the names in the first column of a page's tables: ``| `name` | ...``.
pub(crate) fn documented(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name))
}
