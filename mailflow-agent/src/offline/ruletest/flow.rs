//! `tests[].flows`: each item is one flow, or several equal flows.

use std::time::Duration;

use ipnet::IpNet;
use mailflow_common::App;

use super::{
    flow_template::{FlowKind, SynAnswer},
    offset::test_offset,
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
    flow::{Direction, FlowRecord},
    settings::{Service, Settings},
    time::Time,
};

/// Largest number of records of a test.
const MAX_RECORDS: usize = 1_000_000;
/// Largest value of a counter.
const MAX_COUNTER: u64 = 1 << 40;

/// Reads the flows of a test that begins at `start`, and creates their records.
pub(crate) fn read(
    at: &At<'_>,
    faults: &mut Collector,
    start: Time,
    settings: Option<&Settings>,
) -> Option<Vec<FlowRecord>> {
    let raw_flows = items(at, faults, |item, faults| parse_flow(item, faults, settings))?;
    let mut records = Vec::new();
    let active = settings.map_or(Duration::MAX, |settings| settings.timeouts.active);
    for (item, raw_flow) in at.items(faults)?.zip(raw_flows.into_iter().collect::<Option<Vec<_>>>()?) {
        if raw_flow.repeats.saturating_mul(raw_flow.record_count(active).into())
            > (MAX_RECORDS - records.len()) as u64
        {
            return item.fault_inside(faults, format!("more than {MAX_RECORDS} records in one test"));
        }
        for number in 0..raw_flow.repeats {
            records.extend(raw_flow.records(number, start, records.len(), active));
        }
    }
    Some(records)
}

/// Flow item of a test.
pub(crate) struct RawFlow {
    pub(crate) at: Duration,
    pub(crate) source: IpNet,
    pub(crate) destination: IpNet,
    pub(crate) port: u16,
    pub(crate) client_port: Option<u16>,
    pub(crate) app: App,
    pub(crate) up: Direction,
    pub(crate) down: Direction,
    pub(crate) messages: u32,
    pub(crate) answer: SynAnswer,
    pub(crate) syn: bool,
    pub(crate) duration: Duration,
    pub(crate) repeats: u64,
    pub(crate) interval: Duration,
}

fn parse_flow(at: &At<'_>, faults: &mut Collector, settings: Option<&Settings>) -> Option<RawFlow> {
    Fields::read(at, faults, |fields| {
        let at = fields.or("at", Duration::ZERO, test_offset);
        let source = fields.needed("source", network);
        let destination = fields.needed("destination", network);
        let server_port = fields.or("port", 25, |at, faults| watched_port(at, faults, settings));
        let client_port = fields.or("client_port", None, |at, faults| port(at, faults).map(Some));
        let kind = fields.or("kind", FlowKind::Mail, |at, faults| choice(at, faults, &FlowKind::NAMES));
        let services = settings.map(|settings| &settings.services);
        let service = services.zip(server_port).and_then(|(services, port)| services.get(&port).copied());
        let default = kind.map(|kind| kind.app(service.unwrap_or(Service::Smtp)));
        let apps = App::ALL.map(|app| (app.name(), app));
        let app = match fields.own("app") {
            Some(at) => choice(&at, fields.faults, &apps),
            None => default,
        };
        let template = kind.zip(app).map(|(kind, app)| kind.template(app));
        let default = template.unwrap_or_else(|| FlowKind::Mail.template(App::Smtp));
        let up = fields.or("up", default.up, |at, faults| direction(at, faults, default.up));
        let down = fields.or("down", default.down, |at, faults| direction(at, faults, default.down));
        let messages = fields.or("messages", default.messages, |at, faults| number(at, faults, 0..=u32::MAX));
        let syn = fields.or("syn", true, boolean);
        let answer = match fields.own("synack") {
            Some(at) => boolean(&at, fields.faults)
                .map(|yes| if yes { SynAnswer::SynAck } else { SynAnswer::Nothing }),
            None => Some(default.answer),
        };
        let duration = fields.or("duration", Duration::ZERO, test_offset);
        let repeat = fields.or("repeat", (1, Duration::ZERO), repeat);
        let (repeats, interval) = repeat?;
        Some(RawFlow {
            at: at?,
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
            repeats,
            interval,
        })
    })
}

fn network(at: &At<'_>, faults: &mut Collector) -> Option<IpNet> {
    parsed(at, faults, "an address, or a network whose addresses follow each other", prefix)
}

fn watched_port(at: &At<'_>, faults: &mut Collector, settings: Option<&Settings>) -> Option<u16> {
    let port = port(at, faults)?;
    if settings.is_some_and(|settings| !settings.services.contains_key(&port)) {
        return at.fault(faults, "this port is not in watched_ports, so there would be no record");
    }
    Some(port)
}

fn direction(at: &At<'_>, faults: &mut Collector, default: Direction) -> Option<Direction> {
    Fields::read(at, faults, |fields| {
        let mut count =
            |key, default| fields.or(key, default, |at, faults| number(at, faults, 0..=MAX_COUNTER));
        let (packets, data_packets) =
            (count("packets", default.packets), count("data_packets", default.data_packets));
        let mut size =
            |key, default| fields.or(key, default, |at, faults| bytes(at, faults, 0..=MAX_COUNTER));
        let all = size("bytes", default.bytes);
        let (payload, data_bytes) =
            (size("payload", default.payload), size("data_bytes", default.data_bytes));
        Some(Direction {
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
        let repeats = fields.needed("times", |at, faults| number(at, faults, 1..=MAX_RECORDS as u64));
        let interval = fields.needed("every", test_offset);
        Some((repeats?, interval?))
    })
}
