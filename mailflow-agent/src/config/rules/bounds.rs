//! `rules[].match.flow`: bounds of a flow's quantities.

use std::ops::RangeInclusive;

use super::terms::is_bytes;
use crate::config::{
    amounts::bytes,
    diagnostics::DiagnosticSink,
    yaml::{
        get::{Cursor, MappingReader},
        values::{expect_mapping, number},
    },
};
use mailflow_engine::settings::{Bound, Quantity};

/// Maximum bound.
const MAX_BOUND: u64 = 1 << 40;

/// Reads the bounds, one for each named quantity.
pub(crate) fn read(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Vec<Bound>> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let bounds: Vec<_> = Quantity::ALL
            .into_iter()
            .filter_map(|of| Some(bound(&mapping.explicit(of.name())?, mapping.diagnostics, of)))
            .collect();
        bounds.into_iter().collect()
    })
}

fn bound(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink, of: Quantity) -> Option<Bound> {
    let amount = |cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink, range: RangeInclusive<u64>| {
        if is_bytes(of) { bytes(cursor, diagnostics, range) } else { number(cursor, diagnostics, range) }
    };
    expect_mapping(cursor, diagnostics, "{ at_least: 1 }")?;
    MappingReader::read(cursor, diagnostics, |mapping| {
        let at_least =
            mapping.optional("at_least", 0, |cursor, diagnostics| amount(cursor, diagnostics, 0..=MAX_BOUND));
        let mut upper = |at_most: &'static str, below: &'static str| {
            let (max, below_bound) = (mapping.explicit(at_most), mapping.explicit(below));
            match (max, below_bound) {
                (Some(_), Some(cursor)) => {
                    cursor.reject(mapping.diagnostics, format!("expected {at_most} or {below}, not both"))
                }
                (Some(cursor), None) => amount(&cursor, mapping.diagnostics, 0..=MAX_BOUND).map(Some),
                (None, Some(cursor)) => {
                    amount(&cursor, mapping.diagnostics, 1..=MAX_BOUND).map(|below| Some(below - 1))
                }
                (None, None) => Some(None),
            }
        };
        let at_most = upper("at_most", "below");
        let at_most_tls = upper("at_most_encrypted", "below_encrypted");
        let has_minimum = mapping.explicit("at_least").is_some();
        let bound = Bound { of, at_least: at_least?, at_most: at_most?, at_most_tls: at_most_tls? };
        if !has_minimum && bound.at_most.is_none() && bound.at_most_tls.is_none() {
            return cursor.reject_contents(mapping.diagnostics, "expected at_least, at_most or below");
        }
        let max = bound.at_most.map(|max| max.max(bound.at_most_tls.unwrap_or(max)));
        if max.is_some_and(|max| max < bound.at_least) {
            return cursor.reject_contents(
                mapping.diagnostics,
                "at_least is greater than at_most, so no flow can match",
            );
        }
        Some(bound)
    })
}
