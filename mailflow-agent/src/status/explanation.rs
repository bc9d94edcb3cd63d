//! Conversion of the engine's explanations to the control protocol.

use crate::control::{AllowSuggestion, FlowExplanation, RuleExplanation, SourceExplanation, TermExplanation};
use mailflow_engine::{
    Engine,
    event::{TermValue, Value},
    flow::DirectionStats,
    flow::RecordFields,
    query::explain::{ExplainedFlow, Explanation, RuleSnapshot},
    settings::unit,
    time::{Time, WallClockOffset},
};
use std::net::{IpAddr, SocketAddr};

/// Converts an explanation of a source.
pub(crate) fn convert_explanation(explanation: &Explanation, epoch: WallClockOffset) -> SourceExplanation {
    SourceExplanation {
        matched_network: explanation.matched_network.clone(),
        group: explanation.group.clone(),
        rules: explanation.rules.iter().map(|snapshot| convert_rule(snapshot, epoch)).collect(),
        flows: explanation.flows.iter().map(|explained_flow| convert_flow(explained_flow, epoch)).collect(),
        since: explanation.since.map(|since| unix_seconds(since, epoch)),
    }
}

/// Returns the suggested allow-list entries.
pub(crate) fn list_suggestions(engine: &Engine) -> Vec<AllowSuggestion> {
    let suggested = engine.suggest().into_iter().map(|suggestion| AllowSuggestion {
        source: suggestion.source.map(|source| source.to_string()),
        destination: suggestion.destination.map(|server| server.to_string()),
        because: suggestion.reason,
    });
    suggested.collect()
}

/// Converts the state of a rule's group.
fn convert_rule(snapshot: &RuleSnapshot, epoch: WallClockOffset) -> RuleExplanation {
    RuleExplanation {
        rule: snapshot.rule.to_string(),
        subject: snapshot.group_key.to_string(),
        suppressed: snapshot.suppressed,
        firing_since: snapshot.firing_since.map(|since| unix_seconds(since, epoch)),
        terms: snapshot.terms.iter().map(convert_term).collect(),
    }
}

/// Converts the value of a term.
fn convert_term(term: &TermValue) -> TermExplanation {
    TermExplanation {
        name: term.name.to_string(),
        unit: unit(&term.name).to_owned(),
        window_seconds: term.window.as_secs(),
        value: term.scaled_value(),
        at_bound: matches!(term.value, Value::AtLeast(_)),
        threshold: term.scaled_threshold(),
    }
}

/// Converts an explained flow.
fn convert_flow(explained_flow: &ExplainedFlow, epoch: WallClockOffset) -> FlowExplanation {
    let flow = &explained_flow.record.flow;
    let end = |ip: IpAddr, port: u16| SocketAddr::new(ip, port).to_string();
    let known = |input| explained_flow.record.fields.contains(input);
    let direction = |direction: &DirectionStats| {
        let (packets, bytes) = (known(RecordFields::PACKETS), known(RecordFields::BYTES));
        (packets.then_some(direction.packets), bytes.then_some(direction.bytes))
    };
    FlowExplanation {
        time: unix_seconds(explained_flow.record.time(), epoch),
        client: end(flow.client(), flow.key.client_port),
        server: end(flow.server(), flow.key.server_port),
        app_proto: explained_flow.record.app.name().to_owned(),
        reason: explained_flow.record.reason.name().to_owned(),
        up: direction(&flow.up),
        down: direction(&flow.down),
        messages: known(RecordFields::MESSAGES).then_some(flow.messages),
        verdicts: explained_flow.verdicts.iter().map(|(rule, why)| (rule.to_string(), why.clone())).collect(),
    }
}

/// Converts a time to seconds since 1970.
fn unix_seconds(time: Time, epoch: WallClockOffset) -> f64 {
    epoch.unix_nanos(time) as f64 / 1e9
}
