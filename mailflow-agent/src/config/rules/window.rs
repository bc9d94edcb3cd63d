//! Windows and intervals of rules.

use crate::config::{
    diagnostics::Collector,
    scalar::duration_within,
    yaml::{
        get::{At, Fields},
        values::{choice, parsed},
    },
};
use mailflow_engine::settings::{Window, WindowKind};
use std::time::Duration;

/// Shortest and longest window and interval.
pub(crate) const SPAN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30 * 86_400)];

pub(crate) fn interval(at: &At<'_>, faults: &mut Collector) -> Option<Duration> {
    parsed(at, faults, "a duration", |text| duration_within(text, SPAN))
}

/// A window: its length alone, or a mapping. One that does not say how it moves does so as `kind` says.
pub(crate) fn window(at: &At<'_>, faults: &mut Collector, kind: WindowKind) -> Option<Window> {
    const KINDS: [(&str, WindowKind); 2] =
        [("sliding", WindowKind::Sliding), ("tumbling", WindowKind::Tumbling)];
    if at.text().is_some() {
        return interval(at, faults).map(|length| Window { length, kind });
    }
    Fields::read(at, faults, |fields| {
        let length = fields.needed("length", interval);
        let kind = fields.or("kind", kind, |at, faults| choice(at, faults, &KINDS));
        Some(Window { length: length?, kind: kind? })
    })
}
