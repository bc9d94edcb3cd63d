//! Sections that the rule engine depends on. Configurations and rule tests share them.

use std::{path::Path, time::Duration};

use super::{
    diagnostics::DiagnosticSink,
    networks::{self, lists::NetworkLists},
    rules::{self, AllowExpiry, RuleContext, RuleList, limits},
    scalar::duration_within,
    services,
    yaml::{
        get::{Cursor, MappingReader},
        values::{number, parsed},
    },
};
use mailflow_engine::{
    settings::{Rule, Settings, Timeouts},
    time::WallClockOffset,
};

/// Range of a timeout.
const TIMEOUT_RANGE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(86_400)];

/// Settings of the rule engine, with what is read from the same sections.
pub(crate) struct EngineSections {
    /// Settings of the rule engine.
    pub(crate) settings: Settings,
    /// Disabled rules.
    pub(crate) disabled_rules: Vec<Rule>,
    /// Sources of the internal networks.
    pub(crate) lists: NetworkLists,
    /// Allow-list entries with an end.
    pub(crate) expiries: Vec<AllowExpiry>,
}

/// Reads the sections that the rule engine depends on.
pub(crate) fn read_engine_sections(
    mapping: &mut MappingReader<'_, '_>,
    directory: &Path,
) -> Option<EngineSections> {
    let timeouts = mapping.required("timeouts", timeouts);
    let watched = mapping.required("watched_ports", services::read);
    let internal = mapping
        .required("internal_networks", |cursor, diagnostics| networks::read(cursor, diagnostics, directory));
    let v6_source_prefix = mapping.required("sources", |cursor, diagnostics| {
        MappingReader::read(cursor, diagnostics, |mapping| {
            mapping.required("ipv6_prefix", |cursor, diagnostics| number(cursor, diagnostics, 1..=128))
        })
    });
    let networks = internal.as_ref().map(|(internal, _)| internal);
    let mut expiries = Vec::new();
    let allow = mapping.required("allow", |cursor, diagnostics| {
        rules::allow::read(cursor, diagnostics, networks, &mut expiries)
    });
    let shipped = mapping.shipped_entry("rules").map(|entry| &entry.value);
    let context = RuleContext {
        watched: watched.as_ref(),
        internal: networks,
        shipped,
        allow: allow.as_deref().unwrap_or_default(),
    };
    let limits = mapping.required("limits", limits::read);
    let rules = mapping
        .required("rules", |cursor, diagnostics| rules::read(cursor, diagnostics, context, &mut expiries));
    let (internal, lists) = internal?;
    let RuleList { enabled, disabled } = rules?;
    allow?;
    let settings = Settings {
        timeouts: timeouts?,
        services: watched?.services()?,
        internal,
        v6_source_prefix: v6_source_prefix?,
        clock_offset: WallClockOffset::default(),
        rules: enabled,
        limits: limits?,
    };
    Some(EngineSections { settings, disabled_rules: disabled, lists, expiries })
}

fn timeouts(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Timeouts> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let mut timeout = |key| {
            mapping.required(key, |cursor, diagnostics| {
                parsed(cursor, diagnostics, "a duration", |text| duration_within(text, TIMEOUT_RANGE))
            })
        };
        let (closed, idle) = (timeout("closed"), timeout("idle"));
        let (unanswered, active) = (timeout("unanswered"), timeout("active"));
        Some(Timeouts { closed: closed?, idle: idle?, unanswered: unanswered?, active: active? })
    })
}
