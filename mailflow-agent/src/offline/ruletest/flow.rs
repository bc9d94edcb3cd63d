//! `tests[].flows`: each line is one flow, or several of a kind.

use std::time::Duration;

use ipnet::IpNet;
use mailflow_common::App;

use super::{
    kinds::{Answer, Kind},
    moment::moment_of_test,
};
use crate::config::{
    amounts::bytes,
    diagnostics::Collector,
    networks::lists::prefix,
    services::port,
    yaml::{
        get::{At, Fields},
        values::{boolean, choice, items, number, parsed},
    },
};
use mailflow_engine::{
    flow::{DirectionStats, FlowRecord},
    settings::{Service, Settings},
    time::Time,
};

/// Most records of a test.
const MOST: usize = 1_000_000;
/// Highest counter.
const HIGHEST: u64 = 1 << 40;

/// Reads the flows of a test that begins at `start`, and makes their records.
pub(crate) fn read(
    at: &At<'_>,
    faults: &mut Collector,
    start: Time,
    settings: Option<&Settings>,
) -> Option<Vec<FlowRecord>> {
    let given = items(at, faults, |item, faults| given(item, faults, settings))?;
    let mut records = Vec::new();
    let active = settings.map_or(Duration::MAX, |settings| settings.timeouts.active);
    for (item, given) in at.items(faults)?.zip(given.into_iter().collect::<Option<Vec<_>>>()?) {
        if given.times.saturating_mul(given.steps(active).into()) > (MOST - records.len()) as u64 {
            return item.fault_inside(faults, format!("more than {MOST} records in one test"));
        }
        for number in 0..given.times {
            records.extend(given.records(number, start, records.len(), active));
        }
    }
    Some(records)
}

/// A line of a test.
pub(crate) struct Given {
    pub(crate) at: Duration,
    pub(crate) source: IpNet,
    pub(crate) destination: IpNet,
    pub(crate) port: u16,
    pub(crate) client_port: Option<u16>,
    pub(crate) app: App,
    pub(crate) up: DirectionStats,
    pub(crate) down: DirectionStats,
    pub(crate) messages: u32,
    pub(crate) answer: Answer,
    pub(crate) syn: bool,
    pub(crate) duration: Duration,
    pub(crate) times: u64,
    pub(crate) every: Duration,
}

fn given(at: &At<'_>, faults: &mut Collector, settings: Option<&Settings>) -> Option<Given> {
    Fields::read(at, faults, |fields| {
        let begins = fields.or("at", Duration::ZERO, moment_of_test);
        let source = fields.needed("source", network);
        let destination = fields.needed("destination", network);
        let server_port = fields.or("port", 25, |at, faults| watched(at, faults, settings));
        let client_port = fields.or("client_port", None, |at, faults| port(at, faults).map(Some));
        let kind = fields.or("kind", Kind::Mail, |at, faults| choice(at, faults, &Kind::NAMES));
        let services = settings.map(|settings| &settings.services);
        let service = services.zip(server_port).and_then(|(services, port)| services.get(&port).copied());
        let usual = kind.map(|kind| kind.app(service.unwrap_or(Service::Smtp)));
        let apps = App::ALL.map(|app| (app.name(), app));
        let app = match fields.own("app") {
            Some(at) => choice(&at, fields.faults, &apps),
            None => usual,
        };
        let shape = kind.zip(app).map(|(kind, app)| kind.shape(app));
        let usual = shape.unwrap_or_else(|| Kind::Mail.shape(App::Smtp));
        let up = fields.or("up", usual.up, |at, faults| direction(at, faults, usual.up));
        let down = fields.or("down", usual.down, |at, faults| direction(at, faults, usual.down));
        let messages = fields.or("messages", usual.messages, |at, faults| number(at, faults, 0..=u32::MAX));
        let syn = fields.or("syn", true, boolean);
        let answer = match fields.own("synack") {
            Some(at) => {
                boolean(&at, fields.faults).map(|yes| if yes { Answer::SynAck } else { Answer::Nothing })
            }
            None => Some(usual.answer),
        };
        let duration = fields.or("duration", Duration::ZERO, moment_of_test);
        let repeat = fields.or("repeat", (1, Duration::ZERO), repeat);
        let (times, every) = repeat?;
        Some(Given {
            at: begins?,
            source: source?,
            destination: destination?,
            port: server_port?,
            client_port: client_port?,
            app: app?,
            up: up?,
            down: down?,
            messages: messages?,
            answer: answer?,
            syn: syn?,
            duration: duration?,
            times,
            every,
        })
    })
}

fn network(at: &At<'_>, faults: &mut Collector) -> Option<IpNet> {
    parsed(at, faults, "an address, or a network whose addresses follow each other", prefix)
}

fn watched(at: &At<'_>, faults: &mut Collector, settings: Option<&Settings>) -> Option<u16> {
    let port = port(at, faults)?;
    if settings.is_some_and(|settings| !settings.services.contains_key(&port)) {
        return at.fault(faults, "this port is not in watched_ports, so there would be no record");
    }
    Some(port)
}

fn direction(at: &At<'_>, faults: &mut Collector, usual: DirectionStats) -> Option<DirectionStats> {
    Fields::read(at, faults, |fields| {
        let mut count = |key, usual| fields.or(key, usual, |at, faults| number(at, faults, 0..=HIGHEST));
        let (packets, data_packets) =
            (count("packets", usual.packets), count("data_packets", usual.data_packets));
        let mut size = |key, usual| fields.or(key, usual, |at, faults| bytes(at, faults, 0..=HIGHEST));
        let all = size("bytes", usual.bytes);
        let (payload, data_bytes) = (size("payload", usual.payload), size("data_bytes", usual.data_bytes));
        Some(DirectionStats {
            packets: packets?,
            bytes: all?,
            payload: payload?,
            data_packets: data_packets?,
            data_bytes: data_bytes?,
            last: None,
        })
    })
}

fn repeat(at: &At<'_>, faults: &mut Collector) -> Option<(u64, Duration)> {
    Fields::read(at, faults, |fields| {
        let times = fields.needed("times", |at, faults| number(at, faults, 1..=MOST as u64));
        let every = fields.needed("every", moment_of_test);
        Some((times?, every?))
    })
}
