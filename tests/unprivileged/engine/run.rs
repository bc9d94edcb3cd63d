//! Runs a history through the engine, as the agent would.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::model::{Connection, ModelEvent, Nanos};
use mailflow_common::FlowKey;
use mailflow_engine::{
    Engine,
    event::{Alert, CounterDelta, Effects, MatchedFlow, WindowValue},
    flow::{EvictOutcome, Flow, FlowRecord},
    settings::Settings,
    time::Time,
};

/// Completeness of polls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Readings {
    /// Every poll sees every flow, and ended flows are evicted.
    Whole,
    /// Polls miss some flows, and some ended flows are evicted later.
    Gaps,
}

/// Results of a run.
pub(crate) struct Run {
    pub(crate) polls: Vec<Nanos>,
    /// Missed flows, with the time of the poll.
    pub(crate) missed: HashSet<(FlowKey, Nanos)>,
    pub(crate) records: Vec<FlowRecord>,
    pub(crate) qualified: Vec<MatchedFlow>,
    pub(crate) alerts: Vec<Alert>,
    pub(crate) values: Vec<WindowValue>,
}

/// Polls with these intervals until `stop`, in batches of random sizes, stops, and advances time by `drain`.
pub(crate) fn run(
    settings: &Settings,
    history: &[Connection],
    rhythm: &[Nanos],
    stop: Nanos,
    drain: Nanos,
    (readings, seed): (Readings, u64),
) -> Run {
    let mut engine = Engine::new(settings.clone());
    let mut book = Book::default();
    let mut chance = Chance(seed | 1);
    let mut gaps = Gaps::default();
    let mut polls = Vec::new();
    let mut live: Vec<&Connection> = history.iter().collect();
    let mut now = 0;
    for interval in rhythm.iter().cycle() {
        now += interval;
        if now >= stop {
            break;
        }
        polls.push(now);
        let mut table: Vec<Flow> = live.iter().filter_map(|connection| connection.seen(now)).collect();
        let gappy = matches!(readings, Readings::Gaps);
        table.retain(|flow| !(gappy && gaps.misses(flow.key, now, &mut chance)));
        engine.begin_poll(Time::from_nanos(now));
        for part in chance.parts(&table) {
            book.enter(engine.observe_batch(part));
            if chance.one_in(2) {
                end(&mut engine, &mut book, &mut live, &mut chance, gappy);
            }
        }
        end(&mut engine, &mut book, &mut live, &mut chance, gappy);
        book.balance(&table);
        book.enter(engine.tick(Time::from_nanos(now)));
    }
    let table: Vec<Flow> = live.iter().filter_map(|connection| connection.seen(stop)).collect();
    for part in chance.parts(&table) {
        book.enter(engine.observe_final_batch(Time::from_nanos(stop), part));
    }
    book.enter(engine.shutdown(Time::from_nanos(stop)));
    book.balance(&table);
    let values = engine.window_values(Time::from_nanos(stop));
    assert_eq!((engine.stats().open_flows, engine.stats().vanished_flows), (0, 0));
    if matches!(readings, Readings::Whole) {
        assert_eq!(engine.stats().rules.late, 0);
    }
    // In steps, as time passes.
    for step in 1..=10 {
        book.enter(engine.tick(Time::from_nanos(stop + drain / 10 * step)));
    }
    let Effects { records, matched_flows: qualified, alerts, .. } = book.effects;
    Run { polls, missed: gaps.missed, records, qualified, alerts, values }
}

/// Evicts the ended flows. With gaps, some evictions fail, and the last ones are not tried.
fn end(engine: &mut Engine, book: &mut Book, live: &mut Vec<&Connection>, chance: &mut Chance, gappy: bool) {
    let ending = engine.pending_eviction();
    let tried = ending.len() - if gappy { chance.below(ending.len() as u64 / 4 + 1) as usize } else { 0 };
    let fate = |_: &Flow| match chance.below(6) {
        0 | 1 if gappy => EvictOutcome::Changed,
        2 => EvictOutcome::Missing,
        _ => EvictOutcome::Evicted,
    };
    let fates: Vec<EvictOutcome> = ending[..tried].iter().map(fate).collect();
    let gone = ending.iter().zip(&fates).filter(|(_, fate)| **fate != EvictOutcome::Changed);
    let gone: HashSet<FlowKey> = gone.map(|(flow, _)| flow.key).collect();
    live.retain(|connection| !gone.contains(&connection.key));
    book.enter(engine.apply_evictions(&fates));
}

/// Flows that polls miss: at most eight times in a row, as the engine remembers a flow that long.
#[derive(Default)]
struct Gaps {
    missed: HashSet<(FlowKey, Nanos)>,
    row: HashMap<FlowKey, u32>,
}

impl Gaps {
    fn misses(&mut self, key: FlowKey, now: Nanos, chance: &mut Chance) -> bool {
        let row = self.row.entry(key).or_default();
        // A missed flow is missed again more often: several misses in a row must be common.
        let misses = *row < 8 && chance.one_in(if *row > 0 { 2 } else { 5 });
        *row = if misses { *row + 1 } else { 0 };
        if misses {
            self.missed.insert((key, now));
        }
        misses
    }
}

/// Pseudo-random generator (xorshift, Marsaglia 2003): equal seeds give equal runs.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    pub(crate) fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }

    /// Splits `all` into batches of one to a hundred.
    pub(crate) fn parts<'a, T>(&mut self, mut all: &'a [T]) -> Vec<&'a [T]> {
        let mut parts = Vec::new();
        while !all.is_empty() {
            let most = 1 << self.below(8);
            let length = (1 + self.below(most)).min(100).min(all.len() as u64) as usize;
            let (part, rest) = all.split_at(length);
            parts.push(part);
            all = rest;
        }
        parts
    }
}

/// All effects so far, and the sums of the deltas.
#[derive(Default)]
struct Book {
    effects: Effects,
    sums: HashMap<FlowKey, (CounterDelta, CounterDelta, u64)>,
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
        self.effects.matched_flows.extend(effects.matched_flows);
        self.effects.alerts.extend(effects.alerts);
    }

    /// Checks that the sum of the deltas equals the counters, for every flow after every poll.
    fn balance(&self, table: &[Flow]) {
        for flow in table {
            let [up, down] =
                [&flow.up, &flow.down].map(|way| CounterDelta { packets: way.packets, bytes: way.bytes });
            assert_eq!(self.sums.get(&flow.key), Some(&(up, down, u64::from(flow.messages))), "{flow:?}");
        }
    }
}

/// Converts an alert to the reference's type.
pub(crate) fn model_event(alert: &Alert) -> ModelEvent {
    ModelEvent {
        of: (Arc::clone(&alert.rule), alert.group_key.source().unwrap()),
        state: alert.state,
        time: alert.time.as_nanos(),
        starts_at: alert.starts_at.as_nanos(),
        ends_at: alert.ends_at.map(Time::as_nanos),
        value: alert.deciding_term.value.number(),
        flows: alert.flows.iter().map(|record| (record.flow.key, record.time().as_nanos())).collect(),
    }
}
