//! The sections that the engine's verdicts depend on: a configuration and a rule test have them both.

use std::{path::Path, time::Duration};

use super::{
    diagnostics::Collector,
    networks::{self, lists::Lists},
    rules::{self, Around, Expiry, Rules, limits},
    scalar::duration_within,
    services,
    yaml::{
        get::{At, Fields},
        values::{number, parsed},
    },
};
use mailflow_engine::{
    settings::{Rule, Settings, Timeouts},
    time::WallClockOffset,
};

/// Shortest and longest timeout.
const TIMEOUT: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(86_400)];

/// What the engine is told, and what belongs to it.
pub(crate) struct Judged {
    /// What the engine is told.
    pub(crate) settings: Settings,
    /// The rules that are switched off.
    pub(crate) rules_off: Vec<Rule>,
    /// Where the internal networks come from.
    pub(crate) lists: Lists,
    /// Entries of allow-lists that end.
    pub(crate) ending: Vec<Expiry>,
}

/// Reads the sections that the engine's verdicts depend on.
pub(crate) fn judged(fields: &mut Fields<'_, '_>, directory: &Path) -> Option<Judged> {
    let timeouts = fields.needed("timeouts", timeouts);
    let watched = fields.needed("watched_ports", services::read);
    let internal = fields.needed("internal_networks", |at, faults| networks::read(at, faults, directory));
    let v6_source_prefix = fields.needed("sources", |at, faults| {
        Fields::read(at, faults, |fields| {
            fields.needed("ipv6_prefix", |at, faults| number(at, faults, 1..=128))
        })
    });
    let networks = internal.as_ref().map(|(internal, _)| internal);
    let mut ending = Vec::new();
    let allow = fields.needed("allow", |at, faults| rules::allow::read(at, faults, networks, &mut ending));
    let shipped = fields.shipped("rules").map(|entry| &entry.value);
    let around = Around {
        watched: watched.as_ref(),
        internal: networks,
        shipped,
        allow: allow.as_deref().unwrap_or_default(),
    };
    let limits = fields.needed("limits", limits::read);
    let rules = fields.needed("rules", |at, faults| rules::read(at, faults, around, &mut ending));
    let (internal, lists) = internal?;
    let Rules { on, off } = rules?;
    allow?;
    let settings = Settings {
        timeouts: timeouts?,
        services: watched?.services()?,
        internal,
        v6_source_prefix: v6_source_prefix?,
        clock_offset: WallClockOffset::default(),
        rules: on,
        limits: limits?,
    };
    Some(Judged { settings, rules_off: off, lists, ending })
}

fn timeouts(at: &At<'_>, faults: &mut Collector) -> Option<Timeouts> {
    Fields::read(at, faults, |fields| {
        let mut timeout = |key| {
            fields.needed(key, |at, faults| {
                parsed(at, faults, "a duration", |text| duration_within(text, TIMEOUT))
            })
        };
        let (closed, idle) = (timeout("closed"), timeout("idle"));
        let (unanswered, active) = (timeout("unanswered"), timeout("active"));
        Some(Timeouts { closed: closed?, idle: idle?, unanswered: unanswered?, active: active? })
    })
}
