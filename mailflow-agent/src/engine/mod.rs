//! The engine: from snapshots of the flow table to records and alerts.
//!
//! No clock, no I/O, no aya: time and flows come in as values, effects go out as values.
//!
//! A cycle of the caller is [`Engine::poll`] with the whole table, then, if that named keys,
//! [`Engine::end`] with what those held when they were taken out, then [`Engine::tick`].
//!
//! How often that happens must not show in the results. A flow's end follows from its packets: its
//! last one plus a timeout. Final records are therefore given to the rules in the order of those ends,
//! each at its own moment, as if the table had been read without pause; alerts repeat and end at
//! their own moments in between. Of equal moments the earlier event time goes first, then the lower
//! client address and port, then the lower server address and port. Only active records depend on
//! when somebody looked: they carry what the flow had by then.

pub mod alert;
pub mod assets;
mod evaluate;
pub mod event;
pub mod flow;
mod lifetime;
pub mod rule;
pub mod settings;
pub mod size;
pub mod special;
mod table;
pub mod time;
mod window;

use std::sync::Arc;

use mailflow_common::FlowKey;

pub use self::evaluate::RuleStats;
use self::{
    evaluate::{Counted, Evaluator},
    event::{Effects, WindowValue},
    flow::{Finished, Flow, FlowRecord, RecordReason},
    lifetime::{End, Limits},
    settings::Settings,
    table::{Table, Tracked},
    time::Time,
};

/// Flows looked at together.
const BATCH: usize = 32;

/// Turns snapshots of the flow table into records and alerts.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    limits: Limits,
    table: Table,
    evaluator: Evaluator,
    /// Flows that ended, until the caller has taken them out of the kernel's table.
    ending: Vec<Flow>,
    /// Records the rules have not seen yet.
    arrivals: Vec<Arrival>,
}

/// A record on its way to the rules.
#[derive(Debug)]
struct Arrival {
    at: Time,
    record: Arc<FlowRecord>,
    counted: Counted,
}

/// How much the engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Flows that have not ended.
    pub open_flows: u64,
    /// What the rules hold.
    pub rules: RuleStats,
}

impl Engine {
    /// An engine that has seen nothing yet.
    pub fn new(mut settings: Settings) -> Self {
        let limits = Limits::new(&settings.timeouts);
        let rules = std::mem::take(&mut settings.rules);
        let evaluator = Evaluator::new(rules, settings.v6_source_prefix, limits.lateness());
        let (ending, arrivals) = (Vec::new(), Vec::new());
        Self { settings, limits, table: Table::default(), evaluator, ending, arrivals }
    }

    /// The flows that others on the same tuple have followed: their last gains and their records. Comes
    /// before the [`Engine::poll`] of the same reading, in which the rules look at them.
    pub fn finish(&mut self, finished: &[Finished]) -> Effects {
        let mut effects = Effects::default();
        for Finished { flow, replaced } in finished {
            let end = End::of(flow, &self.limits);
            // A SYN may follow a flow sooner than silence would have ended it.
            let end =
                if end.at <= *replaced { end } else { End { at: *replaced, reason: RecordReason::Closed } };
            self.conclude(flow, end, &mut effects);
        }
        effects
    }

    /// Looks at the whole flow table: what each flow gained, records of living flows whose active
    /// interval has passed, and the keys of the flows that ended.
    ///
    /// The caller takes those keys out of the kernel's table and hands what they held to
    /// [`Engine::end`]. Until then the rules wait, unless there are none. A key that could not be taken
    /// out is named again by the next poll. A flow is the same one as
    /// long as its `first` is.
    pub fn poll(&mut self, now: Time, flows: &[Flow]) -> (Effects, Vec<FlowKey>) {
        let mut effects = Effects::default();
        let unanswered = std::mem::take(&mut self.ending);
        self.table.begin(flows.len());
        for flows in flows.chunks(BATCH) {
            self.table.warm(flows);
            for flow in flows {
                self.look(now, flow, &mut effects);
            }
        }
        // Asked for last time, never handed over, and gone.
        for flow in &unanswered {
            if self.table.lacks(flow) {
                self.close(now, flow, &mut effects);
            }
        }
        let idle = self.settings.timeouts.idle;
        self.table.finish(flows.len(), |last| last + idle <= now);
        if self.ending.is_empty() {
            self.settle(now, &mut effects);
        }
        (effects, self.ending.iter().map(|flow| flow.key).collect())
    }

    /// The flows that the last [`Engine::poll`] named, as they were when they were taken out: a packet
    /// may have come in between. One that is missing from `flows` was gone already, and what the poll
    /// saw of it holds.
    pub fn end(&mut self, now: Time, flows: &[Flow]) -> Effects {
        let mut effects = Effects::default();
        let ending = std::mem::take(&mut self.ending);
        let mut others = Vec::new();
        for flows in flows.chunks(BATCH) {
            self.table.warm(flows);
            for flow in flows {
                if self.table.holds(flow) {
                    self.close(now, flow, &mut effects);
                } else {
                    others.push(flow);
                }
            }
        }
        // Gone already, or its key taken over since.
        for seen in &ending {
            if self.table.holds(seen) {
                self.close(now, seen, &mut effects);
            }
        }
        for flow in others {
            self.close(now, flow, &mut effects);
        }
        self.settle(now, &mut effects);
        effects
    }

    /// Lets time pass: alerts are repeated and resolved.
    pub fn tick(&mut self, now: Time) -> Effects {
        let mut effects = Effects::default();
        self.settle(now, &mut effects);
        effects
    }

    /// The last look at the table: every open flow gets its record.
    pub fn shutdown(&mut self, now: Time, flows: &[Flow]) -> Effects {
        let mut effects = Effects::default();
        self.ending.clear();
        for flow in flows {
            let end = End::of(flow, &self.limits);
            let end = if end.at <= now { end } else { End { at: now, reason: RecordReason::Shutdown } };
            self.conclude(flow, end, &mut effects);
        }
        self.settle(now, &mut effects);
        self.table.clear();
        effects
    }

    /// Gives a record from elsewhere, such as a flow log, to the rules. `now` is the moment at which
    /// it was made; records are given in that order.
    pub fn record(&mut self, now: Time, record: Arc<FlowRecord>) -> Effects {
        let mut effects = Effects::default();
        let counted = if record.reason == RecordReason::Active {
            self.table.see(&record.flow, &self.settings.services).tracked.counted
        } else {
            self.table.take(&record.flow, &self.settings.services).counted
        };
        self.deliver(now, record, counted, &mut effects);
        self.settle(now, &mut effects);
        effects
    }

    /// What each rule's window holds for each source at `now`, where that is not zero; ordered by
    /// rule, then source.
    pub fn windows(&self, now: Time) -> Vec<WindowValue> {
        self.evaluator.values(now)
    }

    /// How much is held.
    pub fn stats(&self) -> Stats {
        Stats { open_flows: self.table.len() as u64, rules: self.evaluator.stats() }
    }

    fn look(&mut self, now: Time, flow: &Flow, effects: &mut Effects) {
        let seen = self.table.see(flow, &self.settings.services);
        effects.deltas.extend(seen.delta);
        let replaced = seen.replaced;
        if End::of(flow, &self.limits).at <= now {
            self.ending.push(flow.clone());
        } else if let Some((passed, at)) = self.limits.intervals(flow, now)
            && seen.tracked.lived(passed)
        {
            let counted = seen.tracked.counted;
            self.make(flow.clone(), End { at, reason: RecordReason::Active }, counted, effects);
        }
        if let Some(old) = replaced {
            self.bury(now, flow.key, old, effects);
        }
    }

    /// The final record of a flow that was taken out of the table.
    fn close(&mut self, now: Time, flow: &Flow, effects: &mut Effects) {
        let end = End::of(flow, &self.limits);
        // A packet after the poll moves the end beyond `now`, but the flow is taken out already.
        self.conclude(flow, End { at: end.at.min(now), ..end }, effects);
    }

    fn conclude(&mut self, flow: &Flow, end: End, effects: &mut Effects) {
        let taken = self.table.take(flow, &self.settings.services);
        effects.deltas.extend(taken.delta);
        self.make(flow.clone(), end, taken.counted, effects);
        if let Some(old) = taken.replaced {
            self.bury(end.at, flow.key, old, effects);
        }
    }

    /// The record of a flow whose entry another flow took over between two looks. Only what the table
    /// remembers is known of it, so the record is not complete.
    fn bury(&mut self, now: Time, key: FlowKey, old: Tracked, effects: &mut Effects) {
        let flow = old.remembered(key);
        let end =
            End { at: (flow.last() + self.settings.timeouts.closed).min(now), reason: RecordReason::Closed };
        let record = FlowRecord { flow, app: old.app(), reason: end.reason, complete: false };
        self.arrivals.push(Arrival { at: end.at, record: Arc::new(record), counted: old.counted });
        effects.records.extend(self.arrivals.last().map(|arrival| Arc::clone(&arrival.record)));
    }

    fn make(&mut self, flow: Flow, end: End, counted: Counted, effects: &mut Effects) {
        let record = Arc::new(lifetime::record(flow, &self.settings.services, end.reason));
        effects.records.push(Arc::clone(&record));
        self.arrivals.push(Arrival { at: end.at.max(record.time()), record, counted });
    }

    /// Gives the waiting records to the rules, each at its moment, then lets time pass until `now`.
    fn settle(&mut self, now: Time, effects: &mut Effects) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.sort_by_cached_key(Arrival::order);
        for Arrival { at, record, counted } in arrivals {
            self.deliver(at, record, counted, effects);
        }
        self.evaluator.advance(now, effects);
    }

    fn deliver(&mut self, at: Time, record: Arc<FlowRecord>, counted: Counted, effects: &mut Effects) {
        let counted = self.evaluator.admit(at, &record, counted, &self.settings.internal, effects);
        if record.reason == RecordReason::Active {
            self.table.mark(&record.flow, counted);
        }
    }
}

impl Arrival {
    fn order(&self) -> impl Ord + use<> {
        let key = &self.record.flow.key;
        let ends = (key.client.ip(), key.client_port, key.server.ip(), key.server_port);
        (self.at, self.record.time(), ends)
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
