//! Moments of a rule test, and names of rules in it.

use crate::config::{
    diagnostics::{DiagnosticSink, nearest},
    scalar::duration_within,
    yaml::{get::Cursor, values::parsed},
};
use mailflow_engine::settings::Rule;
use std::time::Duration;

/// Moments of a test: up to a year after its beginning.
pub(crate) const SPAN: [Duration; 2] = [Duration::ZERO, Duration::from_secs(366 * 86_400)];

/// A moment of a test, from its beginning on.
pub(crate) fn moment_of_test(at: &Cursor<'_>, faults: &mut DiagnosticSink) -> Option<Duration> {
    parsed(at, faults, "a duration", |text| duration_within(text, SPAN))
}

pub(crate) fn no_rule<T>(at: &Cursor<'_>, faults: &mut DiagnosticSink, rules: &[Rule]) -> Option<T> {
    let names = || rules.iter().map(|rule| rule.name.as_ref());
    let meant = nearest(at.text().unwrap_or_default(), names());
    match meant {
        Some(name) => at.reject(faults, format!("no rule has this name; did you mean {name}?")),
        None => at.reject(
            faults,
            format!("no rule has this name; there is {}", names().collect::<Vec<_>>().join(", ")),
        ),
    }
}
