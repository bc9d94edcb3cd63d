//! Explanations of the engine as the control socket words them.

use crate::control::{Explained, HeldRule, HeldTerm, JudgedFlow, Suggested};
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

pub(crate) fn explained(told: &Explanation, epoch: WallClockOffset) -> Explained {
    Explained {
        matched_network: told.matched_network.clone(),
        group: told.group.clone(),
        rules: told.rules.iter().map(|held| rule(held, epoch)).collect(),
        flows: told.flows.iter().map(|judged| flow(judged, epoch)).collect(),
        since: told.since.map(|since| seconds(since, epoch)),
    }
}

pub(crate) fn suggested(engine: &Engine) -> Vec<Suggested> {
    let suggested = engine.suggest().into_iter().map(|suggestion| Suggested {
        source: suggestion.source.map(|source| source.to_string()),
        destination: suggestion.destination.map(|server| server.to_string()),
        because: suggestion.reason,
    });
    suggested.collect()
}

pub(crate) fn rule(held: &RuleSnapshot, epoch: WallClockOffset) -> HeldRule {
    HeldRule {
        rule: held.rule.to_string(),
        subject: held.group_key.to_string(),
        suppressed: held.suppressed,
        firing_since: held.firing_since.map(|since| seconds(since, epoch)),
        terms: held.terms.iter().map(term).collect(),
    }
}

pub(crate) fn term(term: &TermValue) -> HeldTerm {
    HeldTerm {
        name: term.name.to_string(),
        unit: unit(&term.name).to_owned(),
        window_seconds: term.window.as_secs(),
        value: term.scaled_value(),
        at_bound: matches!(term.value, Value::AtLeast(_)),
        threshold: term.scaled_threshold(),
    }
}

pub(crate) fn flow(judged: &ExplainedFlow, epoch: WallClockOffset) -> JudgedFlow {
    let flow = &judged.record.flow;
    let end = |ip: IpAddr, port: u16| SocketAddr::new(ip, port).to_string();
    let known = |input| judged.record.fields.contains(input);
    let way = |way: &DirectionStats| {
        let (packets, bytes) = (known(RecordFields::PACKETS), known(RecordFields::BYTES));
        (packets.then_some(way.packets), bytes.then_some(way.bytes))
    };
    JudgedFlow {
        time: seconds(judged.record.time(), epoch),
        client: end(flow.client(), flow.key.client_port),
        server: end(flow.server(), flow.key.server_port),
        app_proto: judged.record.app.name().to_owned(),
        reason: judged.record.reason.name().to_owned(),
        up: way(&flow.up),
        down: way(&flow.down),
        messages: known(RecordFields::MESSAGES).then_some(flow.messages),
        verdicts: judged.verdicts.iter().map(|(rule, why)| (rule.to_string(), why.clone())).collect(),
    }
}

pub(crate) fn seconds(time: Time, epoch: WallClockOffset) -> f64 {
    epoch.unix_nanos(time) as f64 / 1e9
}
