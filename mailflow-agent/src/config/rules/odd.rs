//! Rules that are not wrong but cannot mean what they say.

use super::terms::{Given, show};
use crate::config::{diagnostics::Collector, yaml::get::At};
use mailflow_engine::settings::{
    Bound, Condition, Counter, Endpoint, FlowClass, GroupBy, Match, Measure, Quantity, Rule, Transport,
};

/// Warns of terms that can never hold, and of ratios that hold at once.
pub(crate) fn warn(condition: &At<'_>, rule: &Rule, terms: &[Given<'_>], faults: &mut Collector) {
    for term in terms {
        if let Some((most, why)) = most(rule, term.measure)
            && most < term.at_least
        {
            let threshold = show(term.measure, term.at_least);
            term.at.warn(faults, format!("never holds: {why}, and it asks for {threshold}"));
        }
    }
    let ratio = |term: usize| matches!(rule.terms.get(term), Some(term) if matches!(term.measure, Measure::Ratio { .. }));
    if alone(&rule.condition, &ratio) {
        condition.warn(
            faults,
            "a ratio alone holds at the first flow of its kind; put it under all: beside a count",
        );
    }
}

/// Returns true if a condition can hold by terms of which `is` is true alone.
fn alone(condition: &Condition, is: &impl Fn(usize) -> bool) -> bool {
    match condition {
        Condition::Term(term) => is(*term),
        Condition::Any(any) => any.iter().any(|one| alone(one, is)),
        Condition::All(all) => all.iter().all(|one| alone(one, is)),
    }
}

/// The most that a measure can be under a rule, where that is known, and why.
fn most(rule: &Rule, measure: Measure) -> Option<(u64, String)> {
    let none = |why: &str| Some((0, why.to_owned()));
    match measure {
        Measure::Count(kind) | Measure::Ratio { of: kind, .. } => none(absent(&rule.matching, kind)?),
        Measure::Sum(Quantity::Messages) if no_message(&rule.matching) => {
            none("no flow with a message matches")
        }
        Measure::Sum(_) => None,
        Measure::Distinct { of, among } => match absent(&rule.matching, among) {
            Some(why) => none(why),
            None => ends(rule, of),
        },
        Measure::FirstSeen { of, .. } => ends(rule, of),
    }
}

fn ends(rule: &Rule, of: Endpoint) -> Option<(u64, String)> {
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

/// Why no flow that matches is of a kind.
fn absent(matching: &Match, kind: FlowClass) -> Option<&'static str> {
    if kind != FlowClass::Flows && !matching.protocols.contains(&Transport::Tcp) {
        return Some("only TCP has a SYN");
    }
    match kind {
        FlowClass::Delivering if no_message(matching) => Some("no flow with a message matches"),
        FlowClass::Failed if only_messages(matching) => Some("only flows with a message match"),
        _ => None,
    }
}

fn messages(matching: &Match) -> impl Iterator<Item = &Bound> {
    matching.bounds.iter().filter(|bound| bound.of == Counter::Quantity(Quantity::Messages))
}

fn no_message(matching: &Match) -> bool {
    messages(matching).any(|bound| bound.at_most == Some(0) && bound.at_most_tls.unwrap_or(0) == 0)
}

fn only_messages(matching: &Match) -> bool {
    messages(matching).any(|bound| bound.at_least > 0)
}
