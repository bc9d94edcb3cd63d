//! Values that unit tests share.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use mailflow_common::{App, Facts, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP, Scope, Vlans};

use crate::{
    flow::{
        DirectionStats, Flow, FlowRecord, RecordReason, class::FlowClass, fields::RecordFields,
        service::Service, timeout::Timeouts,
    },
    network::{Member, Network, Networks},
    rule::{
        Condition, GroupBy, Layer, Match, Measure, Rule, RuleLimits, Severity, SizeKind, SizeTest, Term,
        Thresholds, Transport, Window, WindowKind,
    },
    settings::Settings,
    time::{Time, WallClockOffset},
};

/// Returns the time of these seconds.
pub(crate) fn at(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}

/// Returns a TCP flow of one second that passes every size test but `count`.
pub(crate) fn flow(client: &str, server: &str) -> Flow {
    build(client, server, PROTOCOL_TCP)
}

/// Returns a UDP flow of one second.
pub(crate) fn udp(client: &str, server: &str) -> Flow {
    build(client, server, PROTOCOL_UDP)
}

fn build(client: &str, server: &str, protocol: u8) -> Flow {
    let [client, server]: [SocketAddr; 2] = [client, server].map(|end| end.parse().unwrap());
    let direction = DirectionStats {
        packets: 10,
        bytes: 2_000,
        payload: 1_400,
        data_packets: 8,
        data_bytes: 1_880,
        last: None,
    };
    Flow {
        key: FlowKey {
            client: client.ip().into(),
            server: server.ip().into(),
            client_port: client.port(),
            server_port: server.port(),
            scope: Scope::new(Vlans::default(), protocol, client.is_ipv6()),
        },
        up: DirectionStats { last: Some(at(101)), ..direction },
        down: DirectionStats { last: Some(at(101)), ..direction },
        first: at(100),
        messages: 1,
        rejected: 0,
        mac: None,
        interface: None,
        facts: Facts { syn: 1, syn_ack: 1, seen: 1, ..Facts::default() },
    }
}

/// Returns `flow` moved so that its last packet is at `last`.
pub(crate) fn ending(mut flow: Flow, last: Time) -> Flow {
    (flow.up.last, flow.down.last) = (Some(last), Some(last));
    flow.first = last - Duration::from_secs(1);
    flow
}

/// Returns a record of 10.0.0.1 with this event time.
pub(crate) fn record(time: Time) -> Arc<FlowRecord> {
    let flow = ending(flow("10.0.0.1:4000", "9.9.9.9:25"), time);
    let (app, reason) = (App::Smtp, RecordReason::Closed);
    Arc::new(FlowRecord { flow, app, reason, complete: true, fields: RecordFields::all() })
}

/// Returns the rule `smtp-burst`.
pub(crate) fn rule() -> Rule {
    let window = Window { length: Duration::from_secs(3_600), kind: WindowKind::Sliding };
    let size = SizeTest { kind: SizeKind::Ratio, layer: Layer::L3, up: 80, down: 80 };
    Rule {
        name: "smtp-burst".into(),
        version: 1,
        severity: Severity::High,
        matching: Match {
            source: Member::Internal.into(),
            destination: Member::External.into(),
            ports: vec![25, 465, 587, 994],
            services: Vec::new(),
            apps: vec![App::Smtp, App::SmtpStartTls, App::Smtps],
            protocols: vec![Transport::Tcp],
            size: Some(size),
            sessions_only: false,
            bounds: Vec::new(),
            hours: None,
        },
        group_by: GroupBy::Source,
        window,
        terms: vec![Term {
            measure: Measure::Count(FlowClass::Flows),
            window,
            thresholds: Thresholds { at_least: 10, resolve_below: 8 },
        }],
        condition: Condition::Term(0),
        threshold_overrides: Vec::new(),
        allow: Vec::new(),
        resolve_after: Duration::from_secs(600),
        repeat_interval: Duration::from_secs(3_600),
        labels: BTreeMap::from([("team".to_owned(), "mail".to_owned())]),
        attack: ["T1048.003", "T1048.002", "T1071.003"].map(str::to_owned).to_vec(),
    }
}

/// Returns the networks 10.0.0.0/8 and fd00::/8.
pub(crate) fn internal() -> Networks {
    let line =
        |line: &str| Network { group: Some("lan".to_owned()), ..Network::new(line.parse().unwrap(), line) };
    Networks::new(["10.0.0.0/8", "fd00::/8"].map(line).to_vec())
}

/// Returns settings with the rule `smtp-burst` and the default timeouts.
pub(crate) fn settings() -> Settings {
    Settings {
        timeouts: Timeouts::default(),
        services: BTreeMap::from([
            (25, Service::Smtp),
            (465, Service::Smtps),
            (587, Service::Submission),
            (143, Service::Imap),
            (993, Service::Imaps),
        ]),
        internal: internal(),
        v6_source_prefix: 64,
        clock_offset: WallClockOffset::default(),
        rules: vec![rule()],
        limits: RuleLimits::default(),
    }
}
