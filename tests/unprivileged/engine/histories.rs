//! Random settings, histories and poll intervals.

use std::{net::SocketAddr, time::Duration};

use crate::model::{Connection, Mark, Nanos, Packet, Talk};
use mailflow_common::{FlowKey, PROTOCOL_TCP, Scope, Vlans};
use mailflow_engine::{
    network::{Network, Networks},
    settings::{RuleLimits, Service, Services, Settings, Timeouts},
    time::WallClockOffset,
};
use proptest::prelude::*;

#[path = "rules.rs"]
pub(crate) mod rules;

pub(crate) const MILLISECOND: Nanos = 1_000_000;
pub(crate) const SECOND: Nanos = 1_000 * MILLISECOND;

/// Clients and servers: internal, external, neither.
const CLIENTS: [&str; 6] = ["10.0.0.1", "10.0.0.1", "10.0.0.2", "8.8.8.8", "[fd00::1]", "[fd00::2]"];
const SERVERS_V4: [&str; 5] = ["9.9.9.9", "9.9.9.9", "1.1.1.1", "10.0.0.99", "192.0.2.5"];
const SERVERS_V6: [&str; 5] =
    ["[2620:fe::fe]", "[2620:fe::fe]", "[2620:fe::9]", "[fd00::99]", "[2001:db8::5]"];
const PORTS: [u16; 8] = [25, 25, 25, 465, 587, 994, 8025, 993];

/// Returns the shipped defaults without rules.
pub(crate) fn defaults() -> Settings {
    let line = |line: &str| Network::new(line.parse().unwrap(), line);
    let services =
        [(25, Service::Smtp), (465, Service::Smtps), (587, Service::Submission), (993, Service::Imaps)];
    Settings {
        timeouts: Timeouts::default(),
        services: Services::from(services),
        internal: Networks::new(["10.0.0.0/8", "fd00::/8"].map(line).to_vec()),
        v6_source_prefix: 64,
        clock_offset: WallClockOffset::default(),
        rules: Vec::new(),
        limits: RuleLimits::default(),
    }
}

/// Generates one to four rules, with long or short timeouts.
pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    let short =
        Timeouts { idle: Duration::from_secs(40), active: Duration::from_secs(45), ..Timeouts::default() };
    let timeouts = prop_oneof![Just(Timeouts::default()), Just(short)];
    (timeouts, rules::some()).prop_map(|(timeouts, rules)| Settings { timeouts, rules, ..defaults() })
}

/// Generates poll intervals, 0.1 to 30 s, used in turn.
pub(crate) fn polls() -> impl Strategy<Value = Vec<Nanos>> {
    let interval = prop_oneof![
        1 => 100u64..1_000,
        4 => 1_000u64..30_001,
        1 => Just(1_000u64),
        1 => Just(30_000u64),
    ];
    let mixed = prop::collection::vec(interval, 1..6);
    prop_oneof![9 => mixed, 1 => Just(vec![100])]
        .prop_map(|rhythm| rhythm.into_iter().map(|interval| interval * MILLISECOND).collect())
}

/// End of a connection.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Closed,
    Reset,
    Silent,
    Unanswered,
}

/// Generates up to sixty connections over minutes or hours. Starts in whole seconds make equal times common.
pub(crate) fn history() -> impl Strategy<Value = Vec<Connection>> {
    prop_oneof![1 => Just(300u64), 2 => Just(1_800), 2 => Just(5_000)].prop_flat_map(|span| {
        prop::collection::vec(any_connection(span), 1..60)
            .prop_map(|specs| (0u16..).zip(specs).map(|(n, build)| connection(n, build)).collect())
    })
}

#[derive(Clone, Copy, Debug)]
struct Spec {
    client: &'static str,
    server: usize,
    port: u16,
    start: Nanos,
    gap: Nanos,
    exchanges: u64,
    sizes: (u64, u64),
    ending: Ending,
    talk: Talk,
    joined: bool,
}

fn any_connection(span: u64) -> impl Strategy<Value = Spec> {
    let start =
        prop_oneof![(0..span).prop_map(|s| s * SECOND), (0..span * 1_000).prop_map(|ms| ms * MILLISECOND)];
    let gap = prop_oneof![
        6 => (1u64..400).prop_map(|ms| ms * MILLISECOND),
        1 => Just(SECOND),
        1 => (1u64..20).prop_map(|s| s * SECOND),
    ];
    let size = || prop_oneof![2 => 300u64..1_400, 1 => 0u64..40, 1 => 20u64..90];
    let exchanges = prop_oneof![8 => 1u64..6, 1 => 5u64..60, 1 => 80u64..90];
    let ending = prop_oneof![
        5 => Just(Ending::Closed),
        1 => Just(Ending::Reset),
        3 => Just(Ending::Silent),
        1 => Just(Ending::Unanswered),
    ];
    let talk = prop_oneof![6 => Just(Talk::Smtp), 3 => Just(Talk::Tls), 1 => Just(Talk::Imap), 1 => Just(Talk::Http)];
    let ends = (prop::sample::select(&CLIENTS[..]), 0..SERVERS_V4.len(), prop::sample::select(&PORTS[..]));
    let joined = prop::bool::weighted(0.05);
    (ends, start, gap, exchanges, (size(), size()), ending, talk, joined).prop_map(
        |((client, server, port), start, gap, exchanges, sizes, ending, talk, joined)| Spec {
            client,
            server,
            port,
            start,
            gap,
            exchanges,
            sizes,
            ending,
            talk,
            joined,
        },
    )
}

fn connection(n: u16, spec: Spec) -> Connection {
    let servers = if spec.client.starts_with('[') { SERVERS_V6 } else { SERVERS_V4 };
    let key =
        key(&format!("{}:{}", spec.client, 10_000 + n), &format!("{}:{}", servers[spec.server], spec.port));
    let mut packets = Vec::new();
    let mut at = spec.start + SECOND;
    let mut pass = |up: bool, payload: u64, mark: Mark| {
        packets.push(Packet { at, up, bytes: payload + 52, payload, mark });
        at += spec.gap;
    };
    if let Ending::Unanswered = spec.ending {
        pass(true, 0, Mark::Syn);
        pass(true, 0, Mark::Syn);
        return Connection { key, talk: spec.talk, packets };
    }
    if !spec.joined {
        pass(true, 0, Mark::Syn);
        pass(false, 0, Mark::Syn);
        pass(true, 0, Mark::Plain);
    }
    pass(false, spec.sizes.1 + 1, Mark::Speaks);
    pass(true, spec.sizes.0 + 1, Mark::Speaks);
    for _ in 1..spec.exchanges {
        pass(false, spec.sizes.1, Mark::Plain);
        pass(true, spec.sizes.0, Mark::Plain);
    }
    match spec.ending {
        Ending::Closed => {
            pass(true, 0, Mark::Fin);
            pass(false, 0, Mark::Fin);
            // The last ACK, within the idle timeout of a closed flow.
            at = at.min(at - spec.gap + SECOND);
            packets.push(Packet { at, up: true, bytes: 52, payload: 0, mark: Mark::Plain });
        }
        Ending::Reset => pass(false, 0, Mark::Reset),
        Ending::Silent | Ending::Unanswered => {}
    }
    Connection { key, talk: spec.talk, packets }
}

/// Returns a mail delivery of 10.0.0.1 that `smtp-burst` counts, shorter than ten seconds.
pub(crate) fn mail(n: u16, start: Nanos) -> Connection {
    connection(
        n,
        Spec {
            client: CLIENTS[0],
            server: 0,
            port: 587,
            start,
            gap: SECOND,
            exchanges: 2,
            sizes: (900, 300),
            ending: Ending::Closed,
            talk: Talk::Smtp,
            joined: false,
        },
    )
}

fn key(client: &str, server: &str) -> FlowKey {
    let [client, server]: [SocketAddr; 2] = [client, server].map(|end| end.parse().unwrap());
    FlowKey {
        client: client.ip().into(),
        server: server.ip().into(),
        client_port: client.port(),
        server_port: server.port(),
        scope: Scope::new(Vlans::default(), PROTOCOL_TCP, client.is_ipv6()),
    }
}
