//! Runs a history through the engine, as the agent would.

use std::{collections::HashMap, sync::Arc};

use crate::reference::{Connection, Nanos, Told};
use mailflow_agent::engine::{
    Engine,
    event::{Alert, Effects, Gain, Qualified, WindowValue},
    flow::{Flow, FlowRecord},
    settings::Settings,
    time::Time,
};
use mailflow_common::FlowKey;

/// What a run gave.
pub(crate) struct Run {
    pub(crate) polls: Vec<Nanos>,
    pub(crate) records: Vec<Arc<FlowRecord>>,
    pub(crate) qualified: Vec<Qualified>,
    pub(crate) alerts: Vec<Alert>,
    pub(crate) values: Vec<WindowValue>,
}

/// Polls with `rhythm` until `stop`, shuts down, and lets `drain` pass. With `gone`, every second key
/// has left the table before it is taken out.
pub(crate) fn run(
    settings: &Settings,
    history: &[Connection],
    rhythm: &[Nanos],
    stop: Nanos,
    drain: Nanos,
    gone: bool,
) -> Run {
    let mut engine = Engine::new(settings.clone());
    let mut book = Book::default();
    let mut polls = Vec::new();
    let mut live: Vec<&Connection> = history.iter().collect();
    let mut now = 0;
    for interval in rhythm.iter().cycle() {
        now += interval;
        if now >= stop {
            break;
        }
        polls.push(now);
        let table: Vec<Flow> = live.iter().filter_map(|connection| connection.seen(now)).collect();
        let (effects, keys) = engine.poll(Time::from_nanos(now), &table);
        book.enter(effects);
        book.balance(&table);
        let mut finals: Vec<Flow> = table.into_iter().filter(|flow| keys.contains(&flow.key)).collect();
        let mut second = false;
        finals.retain(|_| {
            second = !second;
            second || !gone
        });
        live.retain(|connection| !keys.contains(&connection.key));
        book.enter(engine.end(Time::from_nanos(now), &finals));
        book.enter(engine.tick(Time::from_nanos(now)));
    }
    let table: Vec<Flow> = live.iter().filter_map(|connection| connection.seen(stop)).collect();
    book.enter(engine.shutdown(Time::from_nanos(stop), &table));
    book.balance(&table);
    let values = engine.windows(Time::from_nanos(stop));
    assert_eq!(engine.stats().open_flows, 0);
    assert_eq!(engine.stats().rules.late, 0);
    // In steps, as time passes.
    for step in 1..=10 {
        book.enter(engine.tick(Time::from_nanos(stop + drain / 10 * step)));
    }
    let Effects { records, qualified, alerts, .. } = book.effects;
    Run { polls, records, qualified, alerts, values }
}

/// All effects so far, and the books.
#[derive(Default)]
struct Book {
    effects: Effects,
    sums: HashMap<FlowKey, (Gain, Gain, u64)>,
}

impl Book {
    fn enter(&mut self, effects: Effects) {
        for delta in effects.deltas {
            assert_eq!(delta.new_flow, !self.sums.contains_key(&delta.key), "{delta:?}");
            let (up, down, messages) = self.sums.entry(delta.key).or_default();
            for (sum, gain) in [(up, delta.up), (down, delta.down)] {
                sum.packets += gain.packets;
                sum.bytes += gain.bytes;
            }
            *messages += delta.messages;
        }
        self.effects.records.extend(effects.records);
        self.effects.qualified.extend(effects.qualified);
        self.effects.alerts.extend(effects.alerts);
    }

    /// The sum of the deltas is the sum of the counters, for every flow at every look.
    fn balance(&self, table: &[Flow]) {
        for flow in table {
            let [up, down] =
                [&flow.up, &flow.down].map(|way| Gain { packets: way.packets, bytes: way.bytes });
            assert_eq!(self.sums.get(&flow.key), Some(&(up, down, u64::from(flow.messages))), "{flow:?}");
        }
    }
}

/// An alert in the reference's words.
pub(crate) fn told(alert: &Alert) -> Told {
    Told {
        of: (Arc::clone(&alert.rule), alert.source),
        state: alert.state,
        time: alert.time.as_nanos(),
        starts_at: alert.starts_at.as_nanos(),
        ends_at: alert.ends_at.map(Time::as_nanos),
        value: alert.value.number(),
        flows: alert.flows.iter().map(|record| (record.flow.key, record.time().as_nanos())).collect(),
    }
}
