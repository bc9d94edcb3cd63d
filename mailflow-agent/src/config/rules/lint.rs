//! Lints: warnings about rules that are valid, but whose condition can never hold or holds at once.

use super::terms::{RawTerm, format_threshold};
use crate::config::{diagnostics::DiagnosticSink, yaml::get::Cursor};
use mailflow_engine::settings::{
    Bound, Condition, Endpoint, FlowClass, GroupBy, Match, Measure, Quantity, Rule, Transport,
};

/// Warns about terms that can never hold, and about ratios that hold at the first flow.
pub(crate) fn warn(
    condition: &Cursor<'_>,
    rule: &Rule,
    terms: &[RawTerm<'_>],
    diagnostics: &mut DiagnosticSink,
) {
    for term in terms {
        if let Some((max, why)) = max_value(rule, term.measure)
            && max < term.at_least
        {
            let threshold = format_threshold(term.measure, term.at_least);
            term.cursor.warn(diagnostics, format!("never holds: {why}, and the threshold is {threshold}"));
        }
    }
    let ratio = |term: usize| matches!(rule.terms.get(term), Some(term) if matches!(term.measure, Measure::Ratio { .. }));
    if holds_alone(&rule.condition, &ratio) {
        condition.warn(
            diagnostics,
            "a ratio alone holds at the first flow of its kind; combine it with a count under all:",
        );
    }
}

/// Returns true if a condition can hold by terms alone for which `is` returns true.
fn holds_alone(condition: &Condition, is: &impl Fn(usize) -> bool) -> bool {
    match condition {
        Condition::Term(term) => is(*term),
        Condition::Any(any) => any.iter().any(|one| holds_alone(one, is)),
        Condition::All(all) => all.iter().all(|one| holds_alone(one, is)),
    }
}

/// Returns the maximum of a measure under a rule, and the reason, if there is a maximum.
fn max_value(rule: &Rule, measure: Measure) -> Option<(u64, String)> {
    let none = |why: &str| Some((0, why.to_owned()));
    match measure {
        Measure::Count(kind) | Measure::Ratio { of: kind, .. } => {
            none(exclusion_reason(&rule.matching, kind)?)
        }
        Measure::Sum(Quantity::Messages) if excludes_messages(&rule.matching) => {
            none("no flow with a message matches")
        }
        Measure::Sum(_) => None,
        Measure::Distinct { of, among } => match exclusion_reason(&rule.matching, among) {
            Some(why) => none(why),
            None => endpoint_limit(rule, of),
        },
        Measure::FirstSeen { of, .. } => endpoint_limit(rule, of),
    }
}

fn endpoint_limit(rule: &Rule, of: Endpoint) -> Option<(u64, String)> {
    match (of, rule.group_by) {
        (Endpoint::Source, GroupBy::Source | GroupBy::SourceAndDestination) => {
            Some((1, "the rule groups by source, so there is one source".to_owned()))
        }
        (Endpoint::Destination, GroupBy::Destination | GroupBy::SourceAndDestination) => {
            Some((1, "the rule groups by destination, so there is one destination".to_owned()))
        }
        (Endpoint::Port, _) => {
            let ports = rule.matching.ports.len();
            Some((ports as u64, format!("{ports} ports match")))
        }
        _ => None,
    }
}

/// Returns the reason why no matching flow is of a kind.
fn exclusion_reason(matching: &Match, kind: FlowClass) -> Option<&'static str> {
    if kind != FlowClass::Flows && !matching.protocols.contains(&Transport::Tcp) {
        return Some("only TCP has a SYN");
    }
    match kind {
        FlowClass::Delivering if excludes_messages(matching) => Some("no flow with a message matches"),
        FlowClass::Failed if requires_messages(matching) => Some("only flows with a message match"),
        _ => None,
    }
}

fn message_bounds(matching: &Match) -> impl Iterator<Item = &Bound> {
    matching.bounds.iter().filter(|bound| bound.of == Quantity::Messages)
}

fn excludes_messages(matching: &Match) -> bool {
    message_bounds(matching).any(|bound| bound.at_most == Some(0) && bound.at_most_tls.unwrap_or(0) == 0)
}

fn requires_messages(matching: &Match) -> bool {
    message_bounds(matching).any(|bound| bound.at_least > 0)
}
