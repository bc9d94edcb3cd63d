//! Windows and intervals of rules.

use crate::config::{
    diagnostics::DiagnosticSink,
    scalar::duration_within,
    yaml::{
        get::{Cursor, MappingReader},
        values::{choice, parsed},
    },
};
use mailflow_engine::settings::{Window, WindowKind};
use std::time::Duration;

/// Range of windows and intervals.
pub(crate) const WINDOW_RANGE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30 * 86_400)];

pub(crate) fn interval(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Duration> {
    parsed(cursor, diagnostics, "a duration", |text| duration_within(text, WINDOW_RANGE))
}

/// Reads a window: its length, or a mapping. Without a `kind` of its own it has the given one.
pub(crate) fn window(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    kind: WindowKind,
) -> Option<Window> {
    const KINDS: [(&str, WindowKind); 2] =
        [("sliding", WindowKind::Sliding), ("tumbling", WindowKind::Tumbling)];
    if cursor.text().is_some() {
        return interval(cursor, diagnostics).map(|length| Window { length, kind });
    }
    MappingReader::read(cursor, diagnostics, |mapping| {
        let length = mapping.required("length", interval);
        let kind = mapping.optional("kind", kind, |cursor, diagnostics| choice(cursor, diagnostics, &KINDS));
        Some(Window { length: length?, kind: kind? })
    })
}
