//! The engine's explanations in the words of the control socket: of a running agent, and of flow logs.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::Result;

use super::{
    backtest::{self, Backtested, EPOCH},
    pipeline::Pipeline,
};
use crate::{
    config::Config,
    control::{Explained, HeldRule, HeldTerm, JudgedFlow, Suggested},
    flowlog::{LogOptions, history::Arrival},
};
use mailflow_engine::{
    Engine,
    event::{TermValue, Value},
    explain::{Explanation, Held, Judged},
    flow::Direction,
    inputs::Inputs,
    settings::{RuleLimits, Settings, unit},
    time::{Epoch, Time},
};
use mailflow_kernel::clock;

impl Pipeline {
    /// All there is to say of a source.
    pub(crate) fn explain(&self, source: IpAddr, flows: usize) -> Explained {
        explained(&self.engine().explain(source, clock::now(), flows), clock::epoch())
    }

    /// What an allow-list might name.
    pub(crate) fn suggest(&self) -> Vec<Suggested> {
        suggested(self.engine())
    }
}

/// Flow logs as one history that the rules have seen.
#[derive(Debug)]
pub struct Past {
    engine: Engine,
    end: Time,
    /// How it went.
    pub read: Backtested,
}

impl Past {
    /// Reads `logs` and lets the rules see them, as a backtest does. What cannot be read of the logs is
    /// logged and counted.
    ///
    /// # Errors
    /// A temporary file for the records cannot be written or read.
    pub fn read(config: &Config, logs: &[PathBuf], options: &LogOptions) -> Result<Self> {
        let (sorter, read) = backtest::read(config, logs, options);
        let settings = Settings { limits: RuleLimits::WIDEST, ..config.engine.clone() };
        let mut engine = Engine::new(settings);
        // What explains all records holds them all: there is no sense in a bound.
        engine.remember_all();
        let (sorted, end) = sorter.sorted()?;
        sorted.for_each(|arrivals| {
            for Arrival { at, record } in arrivals {
                engine.record(*at, record);
            }
        })?;
        engine.tick(end);
        Ok(Self { engine, end, read })
    }

    /// All there is to say of a source, as it was at the end of the logs.
    pub fn explain(&self, source: IpAddr, flows: usize) -> Explained {
        explained(&self.engine.explain(source, self.end, flows), EPOCH)
    }

    /// What an allow-list might name.
    pub fn suggest(&self) -> Vec<Suggested> {
        suggested(&self.engine)
    }

    /// Attempts of which the logs do not tell whether mail was delivered, and all attempts.
    pub fn undelivered_or_not(&self) -> (u64, u64) {
        self.engine.undelivered_or_not()
    }
}

fn explained(told: &Explanation, epoch: Epoch) -> Explained {
    Explained {
        matched_network: told.matched_network.clone(),
        group: told.group.clone(),
        rules: told.rules.iter().map(|held| rule(held, epoch)).collect(),
        flows: told.flows.iter().map(|judged| flow(judged, epoch)).collect(),
        since: told.since.map(|since| seconds(since, epoch)),
    }
}

fn suggested(engine: &Engine) -> Vec<Suggested> {
    let suggested = engine.suggest().into_iter().map(|suggestion| Suggested {
        source: suggestion.source.map(|source| source.to_string()),
        destination: suggestion.destination.map(|server| server.to_string()),
        because: suggestion.because,
    });
    suggested.collect()
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
        unit: unit(&term.name).to_owned(),
        window_seconds: term.window.as_secs(),
        value: term.shown(),
        at_bound: matches!(term.value, Value::AtLeast(_)),
        threshold: term.threshold_shown(),
    }
}

fn flow(judged: &Judged, epoch: Epoch) -> JudgedFlow {
    let flow = &judged.record.flow;
    let end = |ip: IpAddr, port: u16| SocketAddr::new(ip, port).to_string();
    let known = |input| judged.record.inputs.contains(input);
    let way = |way: &Direction| {
        let (packets, bytes) = (known(Inputs::PACKETS), known(Inputs::BYTES));
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
        messages: known(Inputs::MESSAGES).then_some(flow.messages),
        verdicts: judged.verdicts.iter().map(|(rule, why)| (rule.to_string(), why.clone())).collect(),
    }
}

fn seconds(time: Time, epoch: Epoch) -> f64 {
    epoch.unix_nanos(time) as f64 / 1e9
}
