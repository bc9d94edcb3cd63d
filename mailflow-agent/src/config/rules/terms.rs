//! The terms of a condition: what is measured, over which time, and when it is too much.

use std::{ops::RangeInclusive, time::Duration};

use super::window::{SPAN, interval, window};
use crate::config::{
    amounts::{PARTS, bytes, parts, show_bytes, show_parts},
    diagnostics::Collector,
    scalar::{duration_within, show_duration},
    yaml::{
        get::{At, Fields},
        values::{choice, mapping, number, parsed},
    },
};
use mailflow_engine::settings::{Endpoint, FlowClass, Measure, Quantity, Window, WindowKind};

/// The keys that a term is written under.
pub(crate) const KEYS: [&str; 5] = ["count", "sum", "distinct", "ratio", "first_seen"];
/// The threshold of a count; a source keeps that many times.
const COUNT: RangeInclusive<u64> = 1..=1_000_000;
/// The threshold of a sum.
const SUM: RangeInclusive<u64> = 1..=1_000_000_000_000_000;
/// The threshold of distinct ends; a source keeps that many.
const ENDS: RangeInclusive<u64> = 1..=1_000;
/// What was not seen for this long is new again, where a term does not say.
const HORIZON: Duration = SPAN[1];

/// A term as written.
pub(crate) struct Given<'a> {
    /// Where.
    pub(crate) at: At<'a>,
    /// What is measured.
    pub(crate) measure: Measure,
    /// Over which time.
    pub(crate) window: Window,
    /// When it is too much.
    pub(crate) at_least: u64,
}

impl Given<'_> {
    /// Its setting within the rule: `condition.count`.
    pub(crate) fn path(&self) -> &str {
        let path = self.at.path();
        path.find("condition").and_then(|start| path.get(start..)).unwrap_or(path)
    }
}

/// Reads the term under `key`; without a window of its own it has `rule`'s.
pub(crate) fn read<'a>(
    key: &str,
    at: &At<'a>,
    faults: &mut Collector,
    rule: Option<Window>,
) -> Option<Given<'a>> {
    mapping(at, faults, "{ at_least: 10 }")?;
    let (measure, at_least, window) = Fields::read(at, faults, |fields| {
        let measure = match key {
            "sum" => fields.needed("of", quantity).map(Measure::Sum),
            "distinct" => {
                let of = fields.needed("of", end);
                let among = fields.or("among", FlowClass::Flows, kind);
                of.zip(among).map(|(of, among)| Measure::Distinct { of, among })
            }
            "ratio" => ratio(fields),
            "first_seen" => first_seen(fields),
            _ => fields.or("of", FlowClass::Flows, kind).map(Measure::Count),
        };
        // Without `of` a threshold is still read, so that what is wrong with it is told.
        let unit = measure.unwrap_or(match key {
            "sum" => Measure::Sum(Quantity::PayloadUp),
            "ratio" => Measure::Ratio { of: FlowClass::Failed, to: FlowClass::Attempts },
            "count" => Measure::Count(FlowClass::Flows),
            _ => Measure::Distinct { of: Endpoint::Destination, among: FlowClass::Flows },
        });
        let at_least = fields.needed("at_least", |at, faults| threshold(at, faults, unit));
        let window = match fields.own("window") {
            Some(at) => window(&at, fields.faults, rule.map_or(WindowKind::Sliding, |rule| rule.kind)),
            None => rule,
        };
        if let (Some(Measure::FirstSeen { horizon, .. }), Some(window)) = (measure, window)
            && horizon < window.length
        {
            let least = show_duration(window.length);
            let at = fields.own("horizon").unwrap_or_else(|| at.clone());
            return at.fault(fields.faults, format!("expected at least the term's window, {least}"));
        }
        Some((measure?, at_least?, window?))
    })?;
    Some(Given { at: at.clone(), measure, window, at_least })
}

/// What a measure's threshold may be.
pub(crate) fn range(measure: Measure) -> RangeInclusive<u64> {
    match measure {
        Measure::Count(_) => COUNT,
        Measure::Sum(_) => SUM,
        Measure::Distinct { .. } | Measure::FirstSeen { .. } => ENDS,
        Measure::Ratio { .. } => 1..=PARTS,
    }
}

/// Reads a threshold in the unit of what it is for.
pub(crate) fn threshold(at: &At<'_>, faults: &mut Collector, of: Measure) -> Option<u64> {
    match of {
        Measure::Ratio { .. } => parts(at, faults, range(of)),
        Measure::Sum(quantity) if is_bytes(quantity) => bytes(at, faults, range(of)),
        _ => number(at, faults, range(of)),
    }
}

/// A threshold as it is written.
pub(crate) fn show(of: Measure, threshold: u64) -> String {
    match of {
        Measure::Ratio { .. } => show_parts(threshold),
        Measure::Sum(quantity) if is_bytes(quantity) => show_bytes(threshold),
        _ => threshold.to_string(),
    }
}

/// Returns true if it is counted in bytes, which have units.
pub(crate) const fn is_bytes(quantity: Quantity) -> bool {
    use Quantity::{BytesDown, BytesUp, PayloadDown, PayloadUp};
    matches!(quantity, PayloadUp | PayloadDown | BytesUp | BytesDown)
}

fn ratio(fields: &mut Fields<'_, '_>) -> Option<Measure> {
    let of = fields.needed("of", kind);
    let to = fields.needed("to", |at, faults| Some((kind(at, faults)?, at.clone())));
    let (of, (to, at)) = (of?, to?);
    let wider: &[&str] = match of {
        FlowClass::Flows => &[],
        FlowClass::Attempts => &["flows"],
        FlowClass::Sessions | FlowClass::Failed => &["flows", "attempts"],
        FlowClass::Delivering => &["flows", "attempts", "sessions"],
    };
    if wider.contains(&to.name()) {
        return Some(Measure::Ratio { of, to });
    }
    at.fault(
        fields.faults,
        match wider {
            [] => "flows are all there are; expected another kind in `of`".to_owned(),
            _ => format!("not a wider kind than {}; expected one of {}", of.name(), wider.join(", ")),
        },
    )
}

fn first_seen(fields: &mut Fields<'_, '_>) -> Option<Measure> {
    let of = fields.needed("of", end);
    let horizon = fields.or("horizon", HORIZON, interval);
    let learning = fields.or("learning", Duration::ZERO, |at, faults| {
        parsed(at, faults, "a duration", |text| duration_within(text, [Duration::ZERO, SPAN[1]]))
    });
    Some(Measure::FirstSeen { of: of?, horizon: horizon?, learning: learning? })
}

fn kind(at: &At<'_>, faults: &mut Collector) -> Option<FlowClass> {
    if let Some(name) = Quantity::ALL.map(Quantity::name).into_iter().find(|name| at.text() == Some(name)) {
        return at.fault(faults, format!("not a kind of flow, but it can be summed: sum: {{ of: {name} }}"));
    }
    choice(at, faults, &FlowClass::ALL.map(|kind| (kind.name(), kind)))
}

fn quantity(at: &At<'_>, faults: &mut Collector) -> Option<Quantity> {
    if let Some(name) = FlowClass::ALL.map(FlowClass::name).into_iter().find(|name| at.text() == Some(name)) {
        return at.fault(faults, format!("a kind of flow, which is counted: count: {{ of: {name} }}"));
    }
    choice(at, faults, &Quantity::ALL.map(|quantity| (quantity.name(), quantity)))
}

fn end(at: &At<'_>, faults: &mut Collector) -> Option<Endpoint> {
    choice(at, faults, &Endpoint::ALL.map(|end| (end.name(), end)))
}
