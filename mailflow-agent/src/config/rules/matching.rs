//! `rules[].match`: filter of the flows that a rule counts.

use std::collections::BTreeSet;

use mailflow_common::App;

use super::{bounds, hours};
use crate::config::{
    diagnostics::{DiagnosticSink, nearest},
    networks::sets,
    services::{WatchedPorts, port},
    yaml::{
        get::{Cursor, MappingReader},
        tree::Node,
        values::{boolean, choice, expect_mapping, nonempty_set, number},
    },
};
use mailflow_engine::{
    network::Networks,
    settings::{Layer, Match, Service, SizeKind, SizeTest, Transport},
};

const TRANSPORTS: [(&str, Transport); 2] = [("tcp", Transport::Tcp), ("udp", Transport::Udp)];
const LAYERS: [(&str, Layer); 2] = [("l3", Layer::L3), ("payload", Layer::Payload)];
const TESTS: [(&str, SizeKind); 5] = [
    ("ratio", SizeKind::Ratio),
    ("count", SizeKind::Count),
    ("either", SizeKind::Either),
    ("data_ratio", SizeKind::DataRatio),
    ("up_only", SizeKind::UpOnly),
];
/// Maximum threshold of a size test, in bytes or packets.
const MAX_SIZE: u64 = 1 << 40;

/// Context of reading a match.
#[derive(Clone, Copy)]
pub(crate) struct MatchContext<'a> {
    /// Watched ports, as far as they are valid.
    pub(crate) watched: Option<&'a WatchedPorts>,
    /// Internal networks, if they are valid.
    pub(crate) internal: Option<&'a Networks>,
    /// Match of the first shipped rule.
    pub(crate) shipped: Option<&'a Node>,
}

/// Reads a match. Omitted settings are those of the first shipped rule, except the size test.
pub(crate) fn read<'a>(
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    known: MatchContext<'a>,
) -> Option<Match> {
    let MatchContext { watched, internal, shipped } = known;
    MappingReader::read(&cursor.clone().with_defaults(shipped), diagnostics, |mapping| {
        let source =
            mapping.required("source", |cursor, diagnostics| sets::read(cursor, diagnostics, internal));
        let destination =
            mapping.required("destination", |cursor, diagnostics| sets::read(cursor, diagnostics, internal));
        let ports = mapping.required("ports", |cursor, diagnostics| rule_ports(cursor, diagnostics, watched));
        // `Unseen` always matches: the port decides.
        let apps: Vec<_> =
            App::ALL.into_iter().filter(|app| *app != App::Unseen).map(|app| (app.name(), app)).collect();
        let apps = mapping.required("applications", |cursor, diagnostics| {
            nonempty_set(cursor, diagnostics, |cursor, diagnostics| choice(cursor, diagnostics, &apps))
        });
        let protocols = mapping.required("protocols", |cursor, diagnostics| {
            nonempty_set(cursor, diagnostics, |cursor, diagnostics| choice(cursor, diagnostics, &TRANSPORTS))
        });
        let size = match mapping.explicit("size") {
            Some(cursor) => size(&cursor, mapping.diagnostics).map(Some),
            None => Some(None),
        };
        let sessions_only = mapping.optional("sessions_only", false, boolean);
        let bounds = match mapping.explicit("flow") {
            Some(cursor) => bounds::read(&cursor, mapping.diagnostics),
            None => Some(Vec::new()),
        };
        let hours = match mapping.explicit("hours") {
            Some(cursor) => hours::read(&cursor, mapping.diagnostics).map(Some),
            None => Some(None),
        };
        let (ports, services) = ports?;
        Some(Match {
            source: source?,
            destination: destination?,
            ports,
            services,
            apps: apps?,
            protocols: protocols?,
            size: size?,
            sessions_only: sessions_only?,
            bounds: bounds?,
            hours: hours?,
        })
    })
}

/// Item of `match.ports`: a port, or a service, which stands for all of its watched ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum RulePort {
    Number(u16),
    Service(Service),
}

/// Reads `match.ports`. A service stands for all of its ports in `watched_ports`, so a port that is added
/// there belongs to the rule too. Returns the ports in ascending order, and the services.
fn rule_ports(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    watched: Option<&WatchedPorts>,
) -> Option<(Vec<u16>, Vec<Service>)> {
    let known = Service::ALL.map(|service| (service.name(), service));
    let given = nonempty_set(cursor, diagnostics, |cursor, diagnostics| {
        if cursor.is_number() {
            let port = port(cursor, diagnostics)?;
            if watched.is_some_and(|watched| watched.lacks(port)) {
                return cursor.reject(diagnostics, "this port is not in watched_ports, so no flow can match");
            }
            return Some(RulePort::Number(port));
        }
        let named = cursor.text().and_then(|text| known.iter().find(|(name, _)| *name == text));
        if let Some((_, service)) = named {
            return Some(RulePort::Service(*service));
        }
        let names = known.map(|(name, _)| name);
        let meant = cursor.text().and_then(|text| nearest(text, names));
        let meant = meant.map_or_else(String::new, |name| format!("; did you mean {name}?"));
        let names = names.join(", ");
        cursor.reject(
            diagnostics,
            format!("expected a whole number from 1 to 65535, or a service ({names}){meant}"),
        )
    })?;
    let of = |item: &RulePort| match item {
        RulePort::Number(port) => vec![*port],
        RulePort::Service(service) => watched.map_or_else(Vec::new, |watched| watched.ports_of(*service)),
    };
    let ports: BTreeSet<u16> = given.iter().flat_map(of).collect();
    if ports.is_empty() && watched.is_some_and(WatchedPorts::is_complete) {
        return cursor.reject_contents(
            diagnostics,
            "watched_ports has no port of these services, so no flow can match",
        );
    }
    let service = |item: &RulePort| match item {
        RulePort::Number(_) => None,
        RulePort::Service(service) => Some(*service),
    };
    Some((ports.into_iter().collect(), given.iter().filter_map(service).collect()))
}

fn size(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<SizeTest> {
    expect_mapping(cursor, diagnostics, "{ test: ratio, layer: l3, up: 80, down: 80 }")?;
    MappingReader::read(cursor, diagnostics, |mapping| {
        let kind = mapping.required("test", |cursor, diagnostics| choice(cursor, diagnostics, &TESTS));
        let layer = mapping.required("layer", |cursor, diagnostics| choice(cursor, diagnostics, &LAYERS));
        let up = mapping.required("up", |cursor, diagnostics| number(cursor, diagnostics, 0..=MAX_SIZE));
        let down = mapping.required("down", |cursor, diagnostics| number(cursor, diagnostics, 0..=MAX_SIZE));
        Some(SizeTest { kind: kind?, layer: layer?, up: up?, down: down? })
    })
}
