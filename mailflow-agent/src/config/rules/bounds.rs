//! `rules[].match.flow`: bounds on the counters of a flow.

use std::ops::RangeInclusive;

use super::terms::is_bytes;
use crate::config::{
    amounts::bytes,
    diagnostics::Collector,
    yaml::{
        get::{At, Fields},
        values::{mapping, number},
    },
};
use mailflow_engine::settings::{Bound, Counter, Quantity};

/// Highest bound.
const MOST: u64 = 1 << 40;

/// Reads the bounds, one for each counter that is named.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector) -> Option<Vec<Bound>> {
    let quantities = Quantity::ALL.map(|quantity| (quantity.name(), Counter::Quantity(quantity)));
    let data = [("data_packets_up", Counter::DataPacketsUp), ("data_packets_down", Counter::DataPacketsDown)];
    Fields::read(at, faults, |fields| {
        let bounds: Vec<_> = quantities
            .into_iter()
            .chain(data)
            .filter_map(|(name, of)| Some(bound(&fields.own(name)?, fields.faults, of)))
            .collect();
        bounds.into_iter().collect()
    })
}

fn bound(at: &At<'_>, faults: &mut Collector, of: Counter) -> Option<Bound> {
    let amount = |at: &At<'_>, faults: &mut Collector, range: RangeInclusive<u64>| match of {
        Counter::Quantity(quantity) if is_bytes(quantity) => bytes(at, faults, range),
        _ => number(at, faults, range),
    };
    mapping(at, faults, "{ at_least: 1 }")?;
    Fields::read(at, faults, |fields| {
        let at_least = fields.or("at_least", 0, |at, faults| amount(at, faults, 0..=MOST));
        let mut upper = |at_most: &'static str, below: &'static str| {
            let (most, less) = (fields.own(at_most), fields.own(below));
            match (most, less) {
                (Some(_), Some(at)) => {
                    at.fault(fields.faults, format!("expected {at_most} or {below}, not both"))
                }
                (Some(at), None) => amount(&at, fields.faults, 0..=MOST).map(Some),
                (None, Some(at)) => amount(&at, fields.faults, 1..=MOST).map(|below| Some(below - 1)),
                (None, None) => Some(None),
            }
        };
        let at_most = upper("at_most", "below");
        let at_most_tls = upper("at_most_encrypted", "below_encrypted");
        let given = fields.own("at_least").is_some();
        let bound = Bound { of, at_least: at_least?, at_most: at_most?, at_most_tls: at_most_tls? };
        if !given && bound.at_most.is_none() && bound.at_most_tls.is_none() {
            return at.fault_inside(fields.faults, "expected at_least, at_most or below");
        }
        let most = bound.at_most.map(|most| most.max(bound.at_most_tls.unwrap_or(most)));
        if most.is_some_and(|most| most < bound.at_least) {
            return at.fault_inside(fields.faults, "more at least than at most, so no flow could match");
        }
        Some(bound)
    })
}
