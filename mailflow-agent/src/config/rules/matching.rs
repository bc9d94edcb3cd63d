//! `rules[].match`: which flows count.

use mailflow_common::App;

use super::{
    super::{
        fault::Collector,
        ports::{Watched, port},
        read::{At, Fields},
        sets,
        span::Node,
        typed::{boolean, choice, mapping, nonempty_set, number},
    },
    bounds, hours,
};
use crate::engine::{
    assets::Networks,
    settings::{Layer, Match, SizeKind, SizeTest, Transport},
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
pub(super) struct Known<'a> {
    /// The watched ports, as far as they could be read.
    pub(super) watched: Option<&'a Watched>,
    /// The internal networks, if they could be read.
    pub(super) internal: Option<&'a Networks>,
    /// The match of the first shipped rule.
    pub(super) shipped: Option<&'a Node>,
}

/// Reads a match. What it leaves out is taken from the shipped one, except for the size test as a whole.
pub(super) fn read<'a>(at: &At<'a>, faults: &mut Collector, known: Known<'a>) -> Option<Match> {
    let Known { watched, internal, shipped } = known;
    Fields::read(&at.clone().over(shipped), faults, |fields| {
        let source = fields.needed("source", |at, faults| sets::read(at, faults, internal));
        let destination = fields.needed("destination", |at, faults| sets::read(at, faults, internal));
        let ports = fields.needed("ports", |at, faults| {
            nonempty_set(at, faults, |at, faults| {
                let port = port(at, faults)?;
                if watched.is_some_and(|watched| watched.lacks(port)) {
                    return at.fault(faults, "this port is not in watched_ports, so no flow could match");
                }
                Some(port)
            })
        });
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
        Some(Match {
            source: source?,
            destination: destination?,
            ports: ports?,
            apps: apps?,
            protocols: protocols?,
            size: size?,
            sessions_only: sessions_only?,
            bounds: bounds?,
            hours: hours?,
        })
    })
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
