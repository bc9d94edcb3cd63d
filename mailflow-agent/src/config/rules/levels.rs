//! `rules[].resolve` and `rules[].thresholds`: when an alert ends, and who has other thresholds.

use std::time::Duration;

use super::{
    terms::{Given, range, show, threshold},
    window::SPAN,
};
use crate::config::{
    amounts::{PARTS, parts},
    diagnostics::Collector,
    networks::sets,
    scalar::duration_within,
    yaml::{
        get::{At, Fields},
        values::{items, mapping, parsed},
    },
};
use mailflow_engine::{
    network::Networks,
    settings::{Measure, ThresholdOverride, Thresholds},
};

/// How long a condition must not hold, where a rule does not say.
const AFTER: Duration = Duration::from_secs(600);
/// How much below its threshold a term must be, where a rule does not say.
const FACTOR: u64 = PARTS * 4 / 5;
/// By how much thresholds may differ.
const TIMES: [u64; 2] = [PARTS / 1_000, 1_000 * PARTS];

/// When an alert ends.
#[derive(Clone, Copy)]
pub(crate) struct Resolve {
    below: Below,
    /// How long the condition must not hold.
    pub(crate) after: Duration,
}

/// How much below its threshold a term must be.
#[derive(Clone, Copy)]
enum Below {
    /// That part of it.
    Factor(u64),
    /// That much, of such a threshold.
    Of(u64, u64),
}

impl Resolve {
    /// What a rule has that does not say.
    pub(crate) const DEFAULT: Resolve = Resolve { below: Below::Factor(FACTOR), after: AFTER };

    /// Both thresholds of a term.
    pub(crate) fn level(&self, at_least: u64) -> Thresholds {
        // Whole values below 0.8 x threshold are those below the next whole number.
        let below = match self.below {
            Below::Factor(parts) => scaled(at_least, parts, PARTS),
            Below::Of(below, of) => scaled(at_least, below, of),
        };
        Thresholds { at_least, resolve_below: below.clamp(1, highest(at_least)) }
    }
}

/// The highest value below which a firing alert may end.
fn highest(at_least: u64) -> u64 {
    at_least.saturating_sub(1).max(1)
}

/// `number * times / of`, rounded up.
fn scaled(number: u64, times: u64, of: u64) -> u64 {
    let exact = (u128::from(number) * u128::from(times)).div_ceil(u128::from(of.max(1)));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// Reads `resolve`. Without `terms` (they were refused) a threshold is not judged.
pub(crate) fn resolve(at: &At<'_>, faults: &mut Collector, terms: Option<&[Given<'_>]>) -> Option<Resolve> {
    mapping(at, faults, "{ factor: 0.8, after: 10m }")?;
    Fields::read(at, faults, |fields| {
        let factor =
            fields.or("factor", FACTOR, |at, faults| parts(at, faults, PARTS / 100..=PARTS * 99 / 100));
        let factor = factor.map(Below::Factor);
        let below = match (fields.own("below"), fields.own("factor")) {
            (Some(at), Some(_)) => at.fault(fields.faults, "expected below or factor, not both"),
            (Some(at), None) => below(&at, fields.faults, terms),
            (None, _) => factor,
        };
        let after = fields.or("after", AFTER, |at, faults| {
            parsed(at, faults, "a duration", |text| duration_within(text, [Duration::ZERO, SPAN[1]]))
        });
        Some(Resolve { below: below?, after: after? })
    })
}

fn below(at: &At<'_>, faults: &mut Collector, terms: Option<&[Given<'_>]>) -> Option<Below> {
    let Some(terms) = terms else { return Some(Below::Factor(FACTOR)) };
    let [term] = terms else {
        let number = terms.len();
        return at.fault(faults, format!("the condition has {number} terms; expected factor: 0.8, for each"));
    };
    let below = threshold(at, faults, term.measure)?;
    let highest = highest(term.at_least);
    if below > highest {
        let most = show(term.measure, highest);
        return at.fault(faults, format!("expected less than {}.at_least: at most {most}", term.path()));
    }
    Some(Below::Of(below, term.at_least))
}

/// Reads `thresholds`.
pub(crate) fn thresholds(
    at: &At<'_>,
    faults: &mut Collector,
    internal: Option<&Networks>,
    terms: Option<&[Given<'_>]>,
    resolve: Option<Resolve>,
) -> Option<Vec<ThresholdOverride>> {
    let items = items(at, faults, |item, faults| {
        mapping(item, faults, "{ for: \"role:mta\", factor: 5 }")?;
        Fields::read(item, faults, |fields| {
            let of = fields.needed("for", |at, faults| sets::read(at, faults, internal));
            let levels = match (fields.own("factor"), fields.own("at_least")) {
                (Some(_), Some(at)) => at.fault(fields.faults, "expected factor or at_least, not both"),
                (Some(at), None) => times(&at, fields.faults, terms),
                (None, Some(at)) => instead(&at, fields.faults, terms),
                (None, None) => item.fault_inside(fields.faults, "expected factor or at_least beside for"),
            };
            let resolve = resolve.unwrap_or(Resolve::DEFAULT);
            let levels = levels?.into_iter().map(|at_least| resolve.level(at_least)).collect();
            Some(ThresholdOverride { of: of?, thresholds: levels })
        })
    })?;
    items.into_iter().collect()
}

/// Every threshold times a factor; a ratio stays what it is.
fn times(at: &At<'_>, faults: &mut Collector, terms: Option<&[Given<'_>]>) -> Option<Vec<u64>> {
    let factor = parts(at, faults, TIMES[0]..=TIMES[1])?;
    let terms = terms?;
    if terms.iter().all(|term| matches!(term.measure, Measure::Ratio { .. })) {
        return at.fault(faults, "a factor leaves ratios as they are; expected at_least");
    }
    let mut levels = Vec::with_capacity(terms.len());
    for term in terms {
        let at_least = match term.measure {
            Measure::Ratio { .. } => term.at_least,
            _ => scaled(term.at_least, factor, PARTS),
        };
        let most = *range(term.measure).end();
        if at_least > most {
            let most = show(term.measure, most);
            return at.fault(faults, format!("makes {}.at_least more than {most}", term.path()));
        }
        levels.push(at_least);
    }
    Some(levels)
}

/// Another threshold for the one term there is.
fn instead(at: &At<'_>, faults: &mut Collector, terms: Option<&[Given<'_>]>) -> Option<Vec<u64>> {
    match terms? {
        [term] => Some(vec![threshold(at, faults, term.measure)?]),
        terms => {
            let number = terms.len();
            at.fault(faults, format!("the condition has {number} terms; expected factor, for each"))
        }
    }
}
