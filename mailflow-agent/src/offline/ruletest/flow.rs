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
    diagnostics::DiagnosticSink,
    networks::lists::prefix,
    services::port,
    yaml::{
        get::{Cursor, MappingReader},
        values::{boolean, choice, items, number, parsed},
    },
};
use mailflow_engine::{
    flow::{DirectionStats, FlowRecord},
    settings::{Service, Settings},
    time::Time,
};

/// Largest number of records of a test.
const MAX_RECORDS: usize = 1_000_000;
/// Largest value of a counter.
const MAX_COUNTER: u64 = 1 << 40;

/// Reads the flows of a test that begins at `start`, and creates their records.
pub(crate) fn read(
    at: &Cursor<'_>,
    faults: &mut DiagnosticSink,
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
            return item.reject_contents(faults, format!("more than {MAX_RECORDS} records in one test"));
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
    pub(crate) up: DirectionStats,
    pub(crate) down: DirectionStats,
    pub(crate) messages: u32,
    pub(crate) answer: SynAnswer,
    pub(crate) syn: bool,
    pub(crate) duration: Duration,
    pub(crate) repeats: u64,
    pub(crate) interval: Duration,
}

fn parse_flow(at: &Cursor<'_>, faults: &mut DiagnosticSink, settings: Option<&Settings>) -> Option<RawFlow> {
    MappingReader::read(at, faults, |fields| {
        let at = fields.optional("at", Duration::ZERO, test_offset);
        let source = fields.required("source", network);
        let destination = fields.required("destination", network);
        let server_port = fields.optional("port", 25, |at, faults| watched_port(at, faults, settings));
        let client_port = fields.optional("client_port", None, |at, faults| port(at, faults).map(Some));
        let kind = fields.optional("kind", FlowKind::Mail, |at, faults| choice(at, faults, &FlowKind::NAMES));
        let services = settings.map(|settings| &settings.services);
        let service = services.zip(server_port).and_then(|(services, port)| services.get(&port).copied());
        let default = kind.map(|kind| kind.app(service.unwrap_or(Service::Smtp)));
        let apps = App::ALL.map(|app| (app.name(), app));
        let app = match fields.explicit("app") {
            Some(at) => choice(&at, fields.diagnostics, &apps),
            None => default,
        };
        let template = kind.zip(app).map(|(kind, app)| kind.template(app));
        let default = template.unwrap_or_else(|| FlowKind::Mail.template(App::Smtp));
        let up = fields.optional("up", default.up, |at, faults| direction(at, faults, default.up));
        let down = fields.optional("down", default.down, |at, faults| direction(at, faults, default.down));
        let messages =
            fields.optional("messages", default.messages, |at, faults| number(at, faults, 0..=u32::MAX));
        let syn = fields.optional("syn", true, boolean);
        let answer = match fields.explicit("synack") {
            Some(at) => boolean(&at, fields.diagnostics)
                .map(|yes| if yes { SynAnswer::SynAck } else { SynAnswer::Nothing }),
            None => Some(default.answer),
        };
        let duration = fields.optional("duration", Duration::ZERO, test_offset);
        let repeat = fields.optional("repeat", (1, Duration::ZERO), repeat);
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

fn network(at: &Cursor<'_>, faults: &mut DiagnosticSink) -> Option<IpNet> {
    parsed(at, faults, "an address, or a network whose addresses follow each other", prefix)
}

fn watched_port(at: &Cursor<'_>, faults: &mut DiagnosticSink, settings: Option<&Settings>) -> Option<u16> {
    let port = port(at, faults)?;
    if settings.is_some_and(|settings| !settings.services.contains_key(&port)) {
        return at.reject(faults, "this port is not in watched_ports, so there would be no record");
    }
    Some(port)
}

fn direction(
    at: &Cursor<'_>,
    faults: &mut DiagnosticSink,
    default: DirectionStats,
) -> Option<DirectionStats> {
    MappingReader::read(at, faults, |fields| {
        let mut count =
            |key, default| fields.optional(key, default, |at, faults| number(at, faults, 0..=MAX_COUNTER));
        let (packets, data_packets) =
            (count("packets", default.packets), count("data_packets", default.data_packets));
        let mut size =
            |key, default| fields.optional(key, default, |at, faults| bytes(at, faults, 0..=MAX_COUNTER));
        let all = size("bytes", default.bytes);
        let (payload, data_bytes) =
            (size("payload", default.payload), size("data_bytes", default.data_bytes));
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

fn repeat(at: &Cursor<'_>, faults: &mut DiagnosticSink) -> Option<(u64, Duration)> {
    MappingReader::read(at, faults, |fields| {
        let repeats = fields.required("times", |at, faults| number(at, faults, 1..=MAX_RECORDS as u64));
        let interval = fields.required("every", test_offset);
        Some((repeats?, interval?))
    })
}
