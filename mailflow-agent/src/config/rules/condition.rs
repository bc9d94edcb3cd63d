//! `rules[].condition`: a single term, or terms under `any` and `all`.

use super::terms::{self, RawTerm};
use crate::config::{
    diagnostics::DiagnosticSink,
    yaml::{
        get::{Cursor, MappingReader},
        tree::Content,
        values::{expect_mapping, items},
    },
};
use mailflow_engine::settings::{Condition, Window};

/// Maximum number of terms of a rule.
const MAX_TERMS: usize = 32;

/// Condition with its terms as typed.
pub(crate) struct RawCondition<'a> {
    /// Terms in their order.
    pub(crate) terms: Vec<RawTerm<'a>>,
    /// Logical combination of the terms.
    pub(crate) condition: Condition,
}

/// Reads a condition. Terms without a window of their own have `window`, the rule's.
pub(crate) fn read<'a>(
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    window: Option<Window>,
) -> Option<RawCondition<'a>> {
    let mut terms = Vec::new();
    let condition = node(cursor, diagnostics, window, &mut terms);
    let condition = condition?;
    if terms.len() > MAX_TERMS {
        return cursor
            .reject_contents(diagnostics, format!("{} terms; a rule has at most {MAX_TERMS}", terms.len()));
    }
    Some(RawCondition { terms, condition })
}

fn node<'a>(
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    window: Option<Window>,
    terms: &mut Vec<RawTerm<'a>>,
) -> Option<Condition> {
    const EXPECTED: &str = "expected count, sum, distinct, ratio, first_seen, any or all";
    if matches!(cursor.content(), Content::List(_)) {
        return cursor.reject(diagnostics, "expected a mapping; put the list under any: or all:");
    }
    expect_mapping(cursor, diagnostics, "{ count: { at_least: 10 } }")?;
    MappingReader::read(cursor, diagnostics, |mapping| {
        let mut found = Vec::new();
        for key in terms::TERM_KEYS {
            if let Some(cursor) = mapping.explicit(key) {
                found.push(terms::read(key, &cursor, mapping.diagnostics, window).map(|term| {
                    terms.push(term);
                    Condition::Term(terms.len() - 1)
                }));
            }
        }
        for (key, together) in [("any", Condition::Any as fn(_) -> _), ("all", Condition::All)] {
            if let Some(cursor) = mapping.explicit(key) {
                found.push(list(&cursor, mapping.diagnostics, window, terms).map(together));
            }
        }
        match found.len() {
            1 => found.pop().flatten(),
            0 if matches!(cursor.content(), Content::Map(entries) if entries.is_empty()) => {
                cursor.reject_contents(mapping.diagnostics, EXPECTED)
            }
            // All keys are unknown, and reported as such.
            0 => None,
            _ => cursor.reject_contents(
                mapping.diagnostics,
                "several conditions; put them under any: or all:, as a list",
            ),
        }
    })
}

fn list<'a>(
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    window: Option<Window>,
    terms: &mut Vec<RawTerm<'a>>,
) -> Option<Vec<Condition>> {
    let items = items(cursor, diagnostics, |item, diagnostics| node(item, diagnostics, window, terms))?;
    if items.is_empty() {
        return cursor.reject_contents(diagnostics, "an empty list; expected at least one condition");
    }
    items.into_iter().collect()
}
