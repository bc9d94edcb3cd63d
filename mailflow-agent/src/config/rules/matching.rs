//! `rules[].match`: which flows count.

use std::collections::BTreeSet;

use mailflow_common::App;

use super::{bounds, hours};
use crate::config::{
    diagnostics::{Collector, nearest},
    networks::sets,
    services::{Watched, port},
    yaml::{
        get::{At, Fields},
        tree::Node,
        values::{boolean, choice, mapping, nonempty_set, number},
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
/// Highest threshold of a size test, in bytes (or packets).
const MAX_SIZE: u64 = 1 << 40;

/// What a match is read with.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    /// The watched ports, as far as they could be read.
    pub(crate) watched: Option<&'a Watched>,
    /// The internal networks, if they could be read.
    pub(crate) internal: Option<&'a Networks>,
    /// The match of the first shipped rule.
    pub(crate) shipped: Option<&'a Node>,
}

/// Reads a match. What it leaves out is taken from the shipped one, except for the size test as a whole.
pub(crate) fn read<'a>(at: &At<'a>, faults: &mut Collector, known: Known<'a>) -> Option<Match> {
    let Known { watched, internal, shipped } = known;
    Fields::read(&at.clone().over(shipped), faults, |fields| {
        let source = fields.needed("source", |at, faults| sets::read(at, faults, internal));
        let destination = fields.needed("destination", |at, faults| sets::read(at, faults, internal));
        let ports = fields.needed("ports", |at, faults| rule_ports(at, faults, watched));
        // Unseen always matches: the port decides.
        let apps: Vec<_> =
            App::ALL.into_iter().filter(|app| *app != App::Unseen).map(|app| (app.name(), app)).collect();
        let apps = fields.needed("applications", |at, faults| {
            nonempty_set(at, faults, |at, faults| choice(at, faults, &apps))
        });
        let protocols = fields.needed("protocols", |at, faults| {
            nonempty_set(at, faults, |at, faults| choice(at, faults, &TRANSPORTS))
        });
        let size = match fields.own("size") {
            Some(at) => size(&at, fields.faults).map(Some),
            None => Some(None),
        };
        let sessions_only = fields.or("sessions_only", false, boolean);
        let bounds = match fields.own("flow") {
            Some(at) => bounds::read(&at, fields.faults),
            None => Some(Vec::new()),
        };
        let hours = match fields.own("hours") {
            Some(at) => hours::read(&at, fields.faults).map(Some),
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

/// An item of `match.ports`: a port, or the service whose watched ports it stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum RulePort {
    Number(u16),
    Service(Service),
}

/// Reads `match.ports`. A service stands for all ports that `watched_ports` has for it, so that a port that is
/// added there is a port of the rule too. Returns the ports in ascending order, and the services.
fn rule_ports(
    at: &At<'_>,
    faults: &mut Collector,
    watched: Option<&Watched>,
) -> Option<(Vec<u16>, Vec<Service>)> {
    let known = Service::ALL.map(|service| (service.name(), service));
    let given = nonempty_set(at, faults, |at, faults| {
        if at.is_number() {
            let port = port(at, faults)?;
            if watched.is_some_and(|watched| watched.lacks(port)) {
                return at.fault(faults, "this port is not in watched_ports, so no flow could match");
            }
            return Some(RulePort::Number(port));
        }
        let named = at.text().and_then(|text| known.iter().find(|(name, _)| *name == text));
        if let Some((_, service)) = named {
            return Some(RulePort::Service(*service));
        }
        let names = known.map(|(name, _)| name);
        let meant = at.text().and_then(|text| nearest(text, names));
        let meant = meant.map_or_else(String::new, |name| format!("; did you mean {name}?"));
        let names = names.join(", ");
        at.fault(faults, format!("expected a whole number from 1 to 65535, or a service ({names}){meant}"))
    })?;
    let of = |item: &RulePort| match item {
        RulePort::Number(port) => vec![*port],
        RulePort::Service(service) => watched.map_or_else(Vec::new, |watched| watched.ports_of(*service)),
    };
    let ports: BTreeSet<u16> = given.iter().flat_map(of).collect();
    if ports.is_empty() && watched.is_some_and(Watched::is_complete) {
        return at
            .fault_inside(faults, "watched_ports has no port of these services, so no flow could match");
    }
    let service = |item: &RulePort| match item {
        RulePort::Number(_) => None,
        RulePort::Service(service) => Some(*service),
    };
    Some((ports.into_iter().collect(), given.iter().filter_map(service).collect()))
}

fn size(at: &At<'_>, faults: &mut Collector) -> Option<SizeTest> {
    mapping(at, faults, "{ test: ratio, layer: l3, up: 80, down: 80 }")?;
    Fields::read(at, faults, |fields| {
        let kind = fields.needed("test", |at, faults| choice(at, faults, &TESTS));
        let layer = fields.needed("layer", |at, faults| choice(at, faults, &LAYERS));
        let up = fields.needed("up", |at, faults| number(at, faults, 0..=MAX_SIZE));
        let down = fields.needed("down", |at, faults| number(at, faults, 0..=MAX_SIZE));
        Some(SizeTest { kind: kind?, layer: layer?, up: up?, down: down? })
    })
}
