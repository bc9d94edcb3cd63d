//! Measured sessions as flows.

use std::{collections::HashMap, net::Ipv4Addr, time::Duration};

use fastrand::Rng;
use mailflow_common::{App, Facts, FlowKey, PROTOCOL_TCP, Scope, Vlans};
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason},
    time::Time,
};

/// Measured session.
#[derive(Clone, Debug)]
pub(super) struct Vector {
    port: u16,
    pub(super) seconds: f64,
    /// Packets, bytes, payload, data packets, data bytes.
    up: [u64; 5],
    down: [u64; 5],
    messages: u64,
    pub(super) answered: bool,
    app: App,
}

/// Sessions by kind: `mail smtps465 small`, `rej grey`, `auth 1`.
pub(super) struct Vectors(HashMap<String, Vec<Vector>>);

impl Vectors {
    pub(super) fn read() -> Self {
        let mut kinds: HashMap<String, Vec<Vector>> = HashMap::new();
        for line in include_str!("vectors.csv").lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |at: usize| fields[at].parse::<u64>().unwrap();
            let five = |at: usize| std::array::from_fn(|n| number(at + n));
            let (class, mode, size) = (fields[0], fields[1], fields[2]);
            let vector = Vector {
                port: number(3) as u16,
                seconds: fields[4].parse().unwrap(),
                up: five(5),
                down: five(10),
                messages: number(15),
                answered: number(16) == 1,
                app: app(class, mode),
            };
            let kind = if size == "-" { format!("{class} {mode}") } else { format!("{class} {mode} {size}") };
            kinds.entry(kind).or_default().push(vector);
        }
        Self(kinds)
    }

    pub(super) fn pick(&self, rng: &mut Rng, kind: &str) -> Vector {
        let vectors = self.0.get(kind).unwrap_or_else(|| panic!("no vector is a {kind}"));
        vectors[rng.usize(..vectors.len())].clone()
    }
}

fn app(class: &str, mode: &str) -> App {
    match (class, mode) {
        ("dead", _) | ("probe", "connect") => App::Unseen,
        (_, mode) if mode.starts_with("smtps") || mode.starts_with("tls12") => App::Smtps,
        (_, mode) if mode.contains("starttls") || mode.ends_with("_tls") => App::SmtpStartTls,
        _ => App::Smtp,
    }
}

impl Vector {
    /// Returns the session repeated `times` times in one connection.
    pub(super) fn times(&self, times: u64) -> Self {
        let all = |counters: [u64; 5]| counters.map(|counter| counter * times);
        let seconds = self.seconds * times as f64;
        Self {
            seconds,
            up: all(self.up),
            down: all(self.down),
            messages: self.messages * times,
            ..self.clone()
        }
    }

    pub(super) fn flow(&self, client: (Ipv4Addr, u16), server: Ipv4Addr, start: f64) -> Flow {
        let first = Time::ZERO + Duration::from_secs_f64(start);
        let last = first + Duration::from_secs_f64(self.seconds);
        let way = |[packets, bytes, payload, data_packets, data_bytes]: [u64; 5]| DirectionStats {
            packets,
            bytes,
            payload,
            data_packets,
            data_bytes,
            last: (packets > 0).then_some(last),
        };
        Flow {
            key: FlowKey {
                client: std::net::IpAddr::from(client.0).into(),
                server: std::net::IpAddr::from(server).into(),
                client_port: client.1,
                server_port: self.port,
                scope: Scope::new(Vlans::default(), PROTOCOL_TCP, false),
            },
            up: way(self.up),
            down: way(self.down),
            first,
            messages: self.messages as u32,
            rejected: 0,
            mac: None,
            interface: None,
            facts: Facts { syn: 1, syn_ack: u8::from(self.answered), ..Facts::default() },
        }
    }

    pub(super) fn record(&self, flow: Flow, reason: RecordReason) -> FlowRecord {
        FlowRecord { flow, app: self.app, reason, complete: true, fields: RecordFields::all() }
    }
}
