//! Time offsets and rule names in a rule test.

use crate::config::{
    diagnostics::{DiagnosticSink, nearest},
    scalar::duration_within,
    yaml::{get::Cursor, values::parsed},
};
use mailflow_engine::settings::Rule;
use std::time::Duration;

/// Range of offsets: up to a year after the start of the test.
pub(crate) const OFFSET_RANGE: [Duration; 2] = [Duration::ZERO, Duration::from_secs(366 * 86_400)];

/// Reads an offset from the start of a test.
pub(crate) fn test_offset(at: &Cursor<'_>, faults: &mut DiagnosticSink) -> Option<Duration> {
    parsed(at, faults, "a duration", |text| duration_within(text, OFFSET_RANGE))
}

pub(crate) fn unknown_rule<T>(at: &Cursor<'_>, faults: &mut DiagnosticSink, rules: &[Rule]) -> Option<T> {
    let names = || rules.iter().map(|rule| rule.name.as_ref());
    let suggestion = nearest(at.text().unwrap_or_default(), names());
    match suggestion {
        Some(name) => at.reject(faults, format!("no rule has this name; did you mean {name}?")),
        None => at.reject(
            faults,
            format!("no rule has this name; there is {}", names().collect::<Vec<_>>().join(", ")),
        ),
    }
}
