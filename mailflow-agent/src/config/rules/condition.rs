//! `rules[].condition`: terms, alone or under `any` and `all`.

use super::terms::{self, Given};
use crate::config::{
    diagnostics::Collector,
    yaml::{
        get::{At, Fields},
        tree::Content,
        values::{items, mapping},
    },
};
use mailflow_engine::settings::{Condition, Window};

/// Most terms of a rule.
const MOST: usize = 32;

/// A condition as written.
pub(crate) struct Conditions<'a> {
    /// The terms in their order.
    pub(crate) terms: Vec<Given<'a>>,
    /// How they go together.
    pub(crate) condition: Condition,
}

/// Reads a condition. Terms without a window of their own have `window`, the rule's.
pub(crate) fn read<'a>(
    at: &At<'a>,
    faults: &mut Collector,
    window: Option<Window>,
) -> Option<Conditions<'a>> {
    let mut terms = Vec::new();
    let condition = node(at, faults, window, &mut terms);
    let condition = condition?;
    if terms.len() > MOST {
        return at.fault_inside(faults, format!("{} terms; a rule has at most {MOST}", terms.len()));
    }
    Some(Conditions { terms, condition })
}

fn node<'a>(
    at: &At<'a>,
    faults: &mut Collector,
    window: Option<Window>,
    terms: &mut Vec<Given<'a>>,
) -> Option<Condition> {
    const EXPECTED: &str = "expected count, sum, distinct, ratio, first_seen, any or all";
    if matches!(at.content(), Content::List(_)) {
        return at.fault(faults, "expected a mapping; put the list under any: or all:");
    }
    mapping(at, faults, "{ count: { at_least: 10 } }")?;
    Fields::read(at, faults, |fields| {
        let mut found = Vec::new();
        for key in terms::KEYS {
            if let Some(at) = fields.own(key) {
                found.push(terms::read(key, &at, fields.faults, window).map(|term| {
                    terms.push(term);
                    Condition::Term(terms.len() - 1)
                }));
            }
        }
        for (key, together) in [("any", Condition::Any as fn(_) -> _), ("all", Condition::All)] {
            if let Some(at) = fields.own(key) {
                found.push(list(&at, fields.faults, window, terms).map(together));
            }
        }
        match found.len() {
            1 => found.pop().flatten(),
            0 if matches!(at.content(), Content::Map(entries) if entries.is_empty()) => {
                at.fault_inside(fields.faults, EXPECTED)
            }
            // Only keys that are unknown, and reported as such.
            0 => None,
            _ => at.fault_inside(fields.faults, "several conditions; put them under any: or all:, as a list"),
        }
    })
}

fn list<'a>(
    at: &At<'a>,
    faults: &mut Collector,
    window: Option<Window>,
    terms: &mut Vec<Given<'a>>,
) -> Option<Vec<Condition>> {
    let items = items(at, faults, |item, faults| node(item, faults, window, terms))?;
    if items.is_empty() {
        return at.fault_inside(faults, "an empty list; expected at least one condition");
    }
    items.into_iter().collect()
}
