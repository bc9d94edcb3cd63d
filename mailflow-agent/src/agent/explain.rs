//! The engine's explanations in the words of the control socket.

use std::net::{IpAddr, SocketAddr};

use super::pipeline::Pipeline;
use crate::{
    clock,
    control::{Explained, HeldRule, HeldTerm, JudgedFlow, Suggested},
    engine::{
        event::{TermValue, Value},
        explain::{Held, Judged},
        time::{Epoch, Time},
    },
};

impl Pipeline {
    /// All there is to say of a source.
    pub(super) fn explain(&self, source: IpAddr, flows: usize) -> Explained {
        let epoch = clock::epoch();
        let told = self.engine().explain(source, clock::now(), flows);
        Explained {
            matched_network: told.matched_network,
            group: told.group,
            rules: told.rules.iter().map(|held| rule(held, epoch)).collect(),
            flows: told.flows.iter().map(|judged| flow(judged, epoch)).collect(),
            since: told.since.map(|since| seconds(since, epoch)),
        }
    }

    /// What an allow-list might name.
    pub(super) fn suggest(&self) -> Vec<Suggested> {
        let words = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string());
        let suggested = self.engine().suggest().into_iter().map(|suggestion| Suggested {
            source: words(suggestion.source),
            destination: words(suggestion.destination),
            because: suggestion.because,
        });
        suggested.collect()
    }
}

fn rule(held: &Held, epoch: Epoch) -> HeldRule {
    HeldRule {
        rule: held.rule.to_string(),
        subject: held.subject.to_string(),
        suppressed: held.suppressed,
        firing_since: held.firing.map(|since| seconds(since, epoch)),
        terms: held.terms.iter().map(term).collect(),
    }
}

fn term(term: &TermValue) -> HeldTerm {
    HeldTerm {
        name: term.name.to_string(),
        window_seconds: term.window.as_secs(),
        value: term.shown(),
        at_bound: matches!(term.value, Value::AtLeast(_)),
        threshold: term.threshold_shown(),
    }
}

fn flow(judged: &Judged, epoch: Epoch) -> JudgedFlow {
    let flow = &judged.record.flow;
    let end = |ip: IpAddr, port: u16| SocketAddr::new(ip, port).to_string();
    JudgedFlow {
        time: seconds(judged.record.time(), epoch),
        client: end(flow.client(), flow.key.client_port),
        server: end(flow.server(), flow.key.server_port),
        app_proto: judged.record.app.name().to_owned(),
        reason: judged.record.reason.name().to_owned(),
        up: (flow.up.packets, flow.up.bytes),
        down: (flow.down.packets, flow.down.bytes),
        messages: flow.messages,
        verdicts: judged.verdicts.iter().map(|(rule, why)| (rule.to_string(), why.clone())).collect(),
    }
}

fn seconds(time: Time, epoch: Epoch) -> f64 {
    epoch.unix_nanos(time) as f64 / 1e9
}
