//! `rules[].resolve` and `rules[].thresholds`: the end of alerts, and thresholds of some sources.

use std::time::Duration;

use super::{
    terms::{RawTerm, format_threshold, threshold, threshold_range},
    window::WINDOW_RANGE,
};
use crate::config::{
    amounts::{FRACTION_SCALE, fraction},
    diagnostics::DiagnosticSink,
    networks::sets,
    scalar::duration_within,
    yaml::{
        get::{Cursor, MappingReader},
        values::{expect_mapping, items, parsed},
    },
};
use mailflow_engine::{
    network::Networks,
    settings::{Measure, ThresholdOverride, Thresholds},
};

/// Default time that a condition must not hold before the alert resolves.
const DEFAULT_RESOLVE_AFTER: Duration = Duration::from_secs(600);
/// Default resolve threshold as a fraction of the threshold.
const DEFAULT_RESOLVE_FACTOR: u64 = FRACTION_SCALE * 4 / 5;
/// Range of the factor of a threshold override.
const FACTOR_RANGE: [u64; 2] = [FRACTION_SCALE / 1_000, 1_000 * FRACTION_SCALE];

/// Settings of the end of alerts.
#[derive(Clone, Copy)]
pub(crate) struct ResolveSpec {
    below: ResolveBelow,
    /// Time that the condition must not hold.
    pub(crate) after: Duration,
}

/// Value below which a term must be.
#[derive(Clone, Copy)]
enum ResolveBelow {
    /// Fraction of the threshold, scaled by [`FRACTION_SCALE`].
    Factor(u64),
    /// Value, and the threshold of the rule to which the value belongs.
    Value(u64, u64),
}

impl ResolveSpec {
    /// Default settings.
    pub(crate) const DEFAULT: ResolveSpec =
        ResolveSpec { below: ResolveBelow::Factor(DEFAULT_RESOLVE_FACTOR), after: DEFAULT_RESOLVE_AFTER };

    /// Returns the fire and the resolve threshold of a term.
    pub(crate) fn term_thresholds(&self, at_least: u64) -> Thresholds {
        // Integers below 0.8 x threshold are those below the next integer, so the product is rounded up.
        let below = match self.below {
            ResolveBelow::Factor(fraction) => scaled(at_least, fraction, FRACTION_SCALE),
            ResolveBelow::Value(below, of) => scaled(at_least, below, of),
        };
        Thresholds { at_least, resolve_below: below.clamp(1, max_resolve_below(at_least)) }
    }
}

/// Returns the maximum resolve threshold.
fn max_resolve_below(at_least: u64) -> u64 {
    at_least.saturating_sub(1).max(1)
}

/// Returns `number * times / of`, rounded up.
fn scaled(number: u64, times: u64, of: u64) -> u64 {
    let exact = (u128::from(number) * u128::from(times)).div_ceil(u128::from(of.max(1)));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// Reads `resolve`. Without `terms`, which were invalid, `below` is not checked.
pub(crate) fn resolve(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    terms: Option<&[RawTerm<'_>]>,
) -> Option<ResolveSpec> {
    expect_mapping(cursor, diagnostics, "{ factor: 0.8, after: 10m }")?;
    MappingReader::read(cursor, diagnostics, |mapping| {
        let factor = mapping.optional("factor", DEFAULT_RESOLVE_FACTOR, |cursor, diagnostics| {
            fraction(cursor, diagnostics, FRACTION_SCALE / 100..=FRACTION_SCALE * 99 / 100)
        });
        let factor = factor.map(ResolveBelow::Factor);
        let below = match (mapping.explicit("below"), mapping.explicit("factor")) {
            (Some(cursor), Some(_)) => {
                cursor.reject(mapping.diagnostics, "expected below or factor, not both")
            }
            (Some(cursor), None) => below(&cursor, mapping.diagnostics, terms),
            (None, _) => factor,
        };
        let after = mapping.optional("after", DEFAULT_RESOLVE_AFTER, |cursor, diagnostics| {
            parsed(cursor, diagnostics, "a duration", |text| {
                duration_within(text, [Duration::ZERO, WINDOW_RANGE[1]])
            })
        });
        Some(ResolveSpec { below: below?, after: after? })
    })
}

fn below(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    terms: Option<&[RawTerm<'_>]>,
) -> Option<ResolveBelow> {
    let Some(terms) = terms else { return Some(ResolveBelow::Factor(DEFAULT_RESOLVE_FACTOR)) };
    let [term] = terms else {
        let number = terms.len();
        return cursor.reject(
            diagnostics,
            format!("the condition has {number} terms; expected factor: 0.8, for each"),
        );
    };
    let below = threshold(cursor, diagnostics, term.measure)?;
    let highest = max_resolve_below(term.at_least);
    if below > highest {
        let max = format_threshold(term.measure, highest);
        return cursor
            .reject(diagnostics, format!("expected less than {}.at_least: at most {max}", term.path()));
    }
    Some(ResolveBelow::Value(below, term.at_least))
}

/// Reads `thresholds`.
pub(crate) fn thresholds(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    internal: Option<&Networks>,
    terms: Option<&[RawTerm<'_>]>,
    resolve: Option<ResolveSpec>,
) -> Option<Vec<ThresholdOverride>> {
    let items = items(cursor, diagnostics, |item, diagnostics| {
        expect_mapping(item, diagnostics, "{ for: \"role:mta\", factor: 5 }")?;
        MappingReader::read(item, diagnostics, |mapping| {
            let of = mapping.required("for", |cursor, diagnostics| sets::read(cursor, diagnostics, internal));
            let levels = match (mapping.explicit("factor"), mapping.explicit("at_least")) {
                (Some(_), Some(cursor)) => {
                    cursor.reject(mapping.diagnostics, "expected factor or at_least, not both")
                }
                (Some(cursor), None) => scale_by_factor(&cursor, mapping.diagnostics, terms),
                (None, Some(cursor)) => single_threshold(&cursor, mapping.diagnostics, terms),
                (None, None) => item.reject_contents(mapping.diagnostics, "expected factor or at_least"),
            };
            let resolve = resolve.unwrap_or(ResolveSpec::DEFAULT);
            let levels = levels?.into_iter().map(|at_least| resolve.term_thresholds(at_least)).collect();
            Some(ThresholdOverride { of: of?, thresholds: levels })
        })
    })?;
    items.into_iter().collect()
}

/// Reads a factor, and returns each threshold times the factor. Ratios stay the same.
fn scale_by_factor(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    terms: Option<&[RawTerm<'_>]>,
) -> Option<Vec<u64>> {
    let factor = fraction(cursor, diagnostics, FACTOR_RANGE[0]..=FACTOR_RANGE[1])?;
    let terms = terms?;
    if terms.iter().all(|term| matches!(term.measure, Measure::Ratio { .. })) {
        return cursor.reject(diagnostics, "a factor does not change ratios; expected at_least");
    }
    let mut levels = Vec::with_capacity(terms.len());
    for term in terms {
        let at_least = match term.measure {
            Measure::Ratio { .. } => term.at_least,
            _ => scaled(term.at_least, factor, FRACTION_SCALE),
        };
        let max = *threshold_range(term.measure).end();
        if at_least > max {
            let max = format_threshold(term.measure, max);
            return cursor.reject(
                diagnostics,
                format!("makes {}.at_least greater than its maximum, {max}", term.path()),
            );
        }
        levels.push(at_least);
    }
    Some(levels)
}

/// Reads a threshold for the only term.
fn single_threshold(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    terms: Option<&[RawTerm<'_>]>,
) -> Option<Vec<u64>> {
    match terms? {
        [term] => Some(vec![threshold(cursor, diagnostics, term.measure)?]),
        terms => {
            let number = terms.len();
            cursor.reject(diagnostics, format!("the condition has {number} terms; expected factor, for each"))
        }
    }
}
