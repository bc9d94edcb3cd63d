//! Terms of a condition: measure, window and threshold.

use std::{ops::RangeInclusive, time::Duration};

use super::window::{WINDOW_RANGE, interval, window};
use crate::config::{
    amounts::{FRACTION_SCALE, bytes, format_bytes, format_fraction, fraction},
    diagnostics::DiagnosticSink,
    scalar::{duration_within, format_duration},
    yaml::{
        get::{Cursor, MappingReader},
        values::{choice, expect_mapping, number, parsed},
    },
};
use mailflow_engine::settings::{Endpoint, FlowClass, Measure, Quantity, Window, WindowKind};

/// Keys of terms.
pub(crate) const TERM_KEYS: [&str; 5] = ["count", "sum", "distinct", "ratio", "first_seen"];
/// Range of the threshold of a count. A group stores that many times.
const COUNT_RANGE: RangeInclusive<u64> = 1..=1_000_000;
/// Range of the threshold of a sum.
const SUM_RANGE: RangeInclusive<u64> = 1..=1_000_000_000_000_000;
/// Range of the threshold of distinct endpoints. A group stores that many.
const ENDPOINTS_RANGE: RangeInclusive<u64> = 1..=1_000;
/// Default horizon: an endpoint that was not seen for this time counts as new.
const DEFAULT_HORIZON: Duration = WINDOW_RANGE[1];

/// Term as typed.
pub(crate) struct RawTerm<'a> {
    /// Cursor of the term.
    pub(crate) cursor: Cursor<'a>,
    /// Measure.
    pub(crate) measure: Measure,
    /// Window.
    pub(crate) window: Window,
    /// Threshold.
    pub(crate) at_least: u64,
}

impl RawTerm<'_> {
    /// Returns the path within the rule, such as `condition.count`.
    pub(crate) fn path(&self) -> &str {
        let path = self.cursor.path();
        path.find("condition").and_then(|start| path.get(start..)).unwrap_or(path)
    }
}

/// Reads the term of `key`. Without a window of its own it has `rule`'s.
pub(crate) fn read<'a>(
    key: &str,
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    rule: Option<Window>,
) -> Option<RawTerm<'a>> {
    expect_mapping(cursor, diagnostics, "{ at_least: 10 }")?;
    let (measure, at_least, window) = MappingReader::read(cursor, diagnostics, |mapping| {
        let measure = match key {
            "sum" => mapping.required("of", quantity).map(Measure::Sum),
            "distinct" => {
                let of = mapping.required("of", end);
                let among = mapping.optional("among", FlowClass::Flows, kind);
                of.zip(among).map(|(of, among)| Measure::Distinct { of, among })
            }
            "ratio" => ratio(mapping),
            "first_seen" => first_seen(mapping),
            _ => mapping.optional("of", FlowClass::Flows, kind).map(Measure::Count),
        };
        // The threshold is read even if `of` is invalid, so that its errors are reported too.
        let unit = measure.unwrap_or(match key {
            "sum" => Measure::Sum(Quantity::PayloadUp),
            "ratio" => Measure::Ratio { of: FlowClass::Failed, to: FlowClass::Attempts },
            "count" => Measure::Count(FlowClass::Flows),
            _ => Measure::Distinct { of: Endpoint::Destination, among: FlowClass::Flows },
        });
        let at_least =
            mapping.required("at_least", |cursor, diagnostics| threshold(cursor, diagnostics, unit));
        let window = match mapping.explicit("window") {
            Some(cursor) => {
                window(&cursor, mapping.diagnostics, rule.map_or(WindowKind::Sliding, |rule| rule.kind))
            }
            None => rule,
        };
        if let (Some(Measure::FirstSeen { horizon, .. }), Some(window)) = (measure, window)
            && horizon < window.length
        {
            let least = format_duration(window.length);
            let cursor = mapping.explicit("horizon").unwrap_or_else(|| cursor.clone());
            return cursor
                .reject(mapping.diagnostics, format!("expected at least the term's window, {least}"));
        }
        Some((measure?, at_least?, window?))
    })?;
    Some(RawTerm { cursor: cursor.clone(), measure, window, at_least })
}

/// Returns the range of a measure's threshold.
pub(crate) fn threshold_range(measure: Measure) -> RangeInclusive<u64> {
    match measure {
        Measure::Count(_) => COUNT_RANGE,
        Measure::Sum(_) => SUM_RANGE,
        Measure::Distinct { .. } | Measure::FirstSeen { .. } => ENDPOINTS_RANGE,
        Measure::Ratio { .. } => 1..=FRACTION_SCALE,
    }
}

/// Reads a threshold in the unit of its measure.
pub(crate) fn threshold(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink, of: Measure) -> Option<u64> {
    match of {
        Measure::Ratio { .. } => fraction(cursor, diagnostics, threshold_range(of)),
        Measure::Sum(quantity) if is_bytes(quantity) => bytes(cursor, diagnostics, threshold_range(of)),
        _ => number(cursor, diagnostics, threshold_range(of)),
    }
}

/// Formats a threshold.
pub(crate) fn format_threshold(of: Measure, threshold: u64) -> String {
    match of {
        Measure::Ratio { .. } => format_fraction(threshold),
        Measure::Sum(quantity) if is_bytes(quantity) => format_bytes(threshold),
        _ => threshold.to_string(),
    }
}

/// Returns true if a quantity is in bytes, so that its threshold may have a unit.
pub(crate) fn is_bytes(quantity: Quantity) -> bool {
    quantity.unit() == "bytes"
}

fn ratio(mapping: &mut MappingReader<'_, '_>) -> Option<Measure> {
    let of = mapping.required("of", kind);
    let to = mapping.required("to", |cursor, diagnostics| Some((kind(cursor, diagnostics)?, cursor.clone())));
    let (of, (to, cursor)) = (of?, to?);
    let wider: &[&str] = match of {
        FlowClass::Flows => &[],
        FlowClass::Attempts => &["flows"],
        FlowClass::Sessions | FlowClass::Failed => &["flows", "attempts"],
        FlowClass::Delivering => &["flows", "attempts", "sessions"],
    };
    if wider.contains(&to.name()) {
        return Some(Measure::Ratio { of, to });
    }
    cursor.reject(
        mapping.diagnostics,
        match wider {
            [] => "flows is the widest kind; expected another kind in `of`".to_owned(),
            _ => format!("not a wider kind than {}; expected one of {}", of.name(), wider.join(", ")),
        },
    )
}

fn first_seen(mapping: &mut MappingReader<'_, '_>) -> Option<Measure> {
    let of = mapping.required("of", end);
    let horizon = mapping.optional("horizon", DEFAULT_HORIZON, interval);
    let learning = mapping.optional("learning", Duration::ZERO, |cursor, diagnostics| {
        parsed(cursor, diagnostics, "a duration", |text| {
            duration_within(text, [Duration::ZERO, WINDOW_RANGE[1]])
        })
    });
    Some(Measure::FirstSeen { of: of?, horizon: horizon?, learning: learning? })
}

fn kind(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<FlowClass> {
    if let Some(name) = Quantity::ALL.map(Quantity::name).into_iter().find(|name| cursor.text() == Some(name))
    {
        return cursor
            .reject(diagnostics, format!("not a kind of flow, but it can be summed: sum: {{ of: {name} }}"));
    }
    choice(cursor, diagnostics, &FlowClass::ALL.map(|kind| (kind.name(), kind)))
}

fn quantity(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Quantity> {
    if let Some(name) =
        FlowClass::ALL.map(FlowClass::name).into_iter().find(|name| cursor.text() == Some(name))
    {
        return cursor
            .reject(diagnostics, format!("a kind of flow, which is counted: count: {{ of: {name} }}"));
    }
    choice(cursor, diagnostics, &Quantity::ALL.map(|quantity| (quantity.name(), quantity)))
}

fn end(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Endpoint> {
    choice(cursor, diagnostics, &Endpoint::ALL.map(|end| (end.name(), end)))
}
