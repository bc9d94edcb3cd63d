//! The engine: from snapshots of the flow table to records and alerts.
//!
//! No clock, no I/O, no aya: time and flows come in as values, effects go out as values.
//!
//! A cycle of the caller is a reading of the flow table and what follows from it: [`Engine::begin`],
//! [`Engine::finish`], [`Engine::look`] with one part of the table after the other, [`Engine::overflow`], and then
//! [`Engine::tick`]. After each part, or after the last, the caller takes [`Engine::ending`] out of the
//! kernel's table and tells [`Engine::end`] what became of them. Nothing here holds the table: it may be
//! far larger than what is remembered of it.
//!
//! How often that happens must not show in the results. A flow's end follows from its packets: its
//! last one plus a timeout. Final records are therefore given to the rules in the order of those ends,
//! each at its own moment, as if the table had been read without pause; alerts repeat and end at
//! their own moments in between. Of equal moments the earlier event time goes first, then the lower
//! client address and port, then the lower server address and port. Only active records depend on
//! when somebody looked: they carry what the flow had by then.

pub mod alert;
mod asset_role;
pub mod assets;
mod evaluate;
pub mod event;
pub mod flow;
pub mod inputs;
mod lifetime;
mod name;
mod ranges;
pub mod rule;
mod set;
pub mod settings;
pub mod size;
mod slot;
mod slots;
pub mod special;
pub mod spill;
mod table;
pub mod time;
mod window;

use std::sync::Arc;

pub use self::evaluate::RuleStats;
use self::{
    assets::Networks,
    evaluate::Evaluator,
    event::{Effects, WindowValue},
    flow::{Fate, Finished, Flow, FlowRecord, RecordReason},
    lifetime::{End, Limits},
    name::Name,
    settings::Settings,
    spill::{Spill, Spills},
    table::Table,
    time::Time,
};

/// Flows looked at together.
const BATCH: usize = 32;

/// Ended flows for which room is kept from one reading to the next.
const KEPT: usize = 4_096;

/// Turns snapshots of the flow table into records and alerts.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    limits: Limits,
    table: Table,
    spills: Spills,
    evaluator: Evaluator,
    /// The moment of the reading that is on.
    now: Time,
    /// Flows it found ended, with their gains booked. The table has forgotten them.
    ending: Vec<Flow>,
    /// Records the rules have not seen yet.
    arrivals: Vec<Arrival>,
}

/// A record on its way to the rules.
#[derive(Debug)]
struct Arrival {
    at: Time,
    time: Time,
    record: Arc<FlowRecord>,
}

/// What came of other settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconfigured {
    /// The rules whose windows begin anew.
    pub restarted: Vec<Arc<str>>,
    /// What time had brought by then, and the ends of the incidents of rules that are gone.
    pub effects: Effects,
}

/// How much the engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Flows that have not ended.
    pub open_flows: u64,
    /// Flows that left the kernel's table unasked, since the start. Their packets are booked, but they
    /// have no final record.
    pub vanished_flows: u64,
    /// What the rules hold.
    pub rules: RuleStats,
}

impl Engine {
    /// An engine that has seen nothing yet.
    pub fn new(mut settings: Settings) -> Self {
        let limits = Limits::new(&settings.timeouts);
        let rules = std::mem::take(&mut settings.rules);
        let evaluator = Evaluator::new(rules, settings.v6_source_prefix, limits.lateness());
        let (table, spills) = (Table::default(), Spills::default());
        let (ending, arrivals) = (Vec::new(), Vec::new());
        Self { settings, limits, table, spills, evaluator, now: Time::ZERO, ending, arrivals }
    }

    /// From now on these are the internal networks. What was counted stays counted; records that come are
    /// judged by the new list.
    pub fn set_internal(&mut self, internal: Networks) {
        self.settings.internal = internal;
    }

    /// From now on these are the settings, at `now`. Flows, windows and incidents stay, but for rules whose
    /// match or window is another: those are named, and their windows begin anew. Incidents of rules that
    /// are gone end. The grouping of sources stays what it was.
    pub fn reconfigure(&mut self, now: Time, mut settings: Settings) -> Reconfigured {
        let mut effects = self.tick(now);
        self.limits = Limits::new(&settings.timeouts);
        let rules = std::mem::take(&mut settings.rules);
        let changed = self.evaluator.reconfigure(rules, self.limits.lateness());
        self.table.remark(|counted| changed.moved(counted));
        settings.v6_source_prefix = self.settings.v6_source_prefix;
        self.settings = settings;
        effects.alerts.extend(changed.alerts);
        Reconfigured { restarted: changed.restarted, effects }
    }

    /// A reading of the flow table begins.
    pub fn begin(&mut self, now: Time) {
        self.remain();
        self.now = now;
        self.table.begin(now);
    }

    /// The flows that others on the same tuple have followed: their last gains and their records. Comes
    /// before the parts of the same reading.
    pub fn finish(&mut self, finished: &[Finished]) -> Effects {
        self.remain();
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

    /// Looks at a part of the flow table: what each flow gained, and records of living flows whose
    /// active interval has passed.
    ///
    /// A flow is the same one as long as its `first` is. One that a reading does not show is not
    /// forgotten: it may be back in the next.
    pub fn look(&mut self, flows: &[Flow]) -> Effects {
        let mut effects = Effects::default();
        effects.deltas.reserve(flows.len());
        for flows in flows.chunks(BATCH) {
            let names = self.table.names::<BATCH>(flows);
            for (name, flow) in names.into_iter().zip(flows) {
                self.see(name, flow, &mut effects);
            }
        }
        effects
    }

    /// The flows that had ended, of those looked at since [`Engine::begin`] or [`Engine::end`].
    ///
    /// The caller takes them out of the kernel's table, unless they have gained something meanwhile.
    pub fn ending(&self) -> &[Flow] {
        &self.ending
    }

    /// What became of [`Engine::ending`], in its order: those that are out of the kernel's table have
    /// their records. The others live, also those of which nothing is said; a later reading judges them
    /// again.
    pub fn end(&mut self, fates: &[Fate]) -> Effects {
        let mut effects = Effects::default();
        effects.records.reserve(fates.len());
        let mut ending = std::mem::take(&mut self.ending);
        for (flow, fate) in ending.drain(..fates.len().min(ending.len())).zip(fates) {
            match fate {
                Fate::Removed | Fate::Absent => {
                    let end = End::of(&flow, &self.limits);
                    self.make(flow, end, &mut effects);
                }
                Fate::Lives => self.table.put(&flow),
            }
        }
        self.ending = ending;
        self.remain();
        effects
    }

    /// What sources have beyond the flow table: their gains. There are no records of them.
    pub fn overflow(&mut self, spilled: &[Spill]) -> Effects {
        let deltas = spilled.iter().filter_map(|spill| self.spills.look(spill)).collect();
        Effects { deltas, ..Effects::default() }
    }

    /// Lets time pass: the rules see the records made so far, alerts are repeated and resolved.
    pub fn tick(&mut self, now: Time) -> Effects {
        let mut effects = Effects::default();
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.sort_unstable_by_key(Arrival::moment);
        for equal in arrivals.chunk_by_mut(|one, other| one.moment() == other.moment()) {
            if equal.len() > 1 {
                equal.sort_by_cached_key(Arrival::ends);
            }
        }
        for Arrival { at, record, .. } in arrivals {
            self.deliver(at, record, &mut effects);
        }
        self.evaluator.advance(now, &mut effects);
        effects
    }

    /// The last look at a part of the table: every open flow gets its record. [`Engine::shutdown`]
    /// follows.
    pub fn look_last(&mut self, now: Time, flows: &[Flow]) -> Effects {
        self.remain();
        let mut effects = Effects::default();
        for flow in flows {
            let end = End::of(flow, &self.limits);
            let end = if end.at <= now { end } else { End { at: now, reason: RecordReason::Shutdown } };
            self.conclude(flow, end, &mut effects);
        }
        effects
    }

    /// The end: the rules see the last records, and no flow is remembered.
    pub fn shutdown(&mut self, now: Time) -> Effects {
        self.table.clear();
        self.tick(now)
    }

    /// Gives a record from elsewhere, such as a flow log, to the rules. `now` is the moment at which
    /// it was made; records are given in that order.
    pub fn record(&mut self, now: Time, record: Arc<FlowRecord>) -> Effects {
        let mut effects = Effects::default();
        self.deliver(now, record, &mut effects);
        self.evaluator.advance(now, &mut effects);
        effects
    }

    /// What each rule's window holds for each source at `now`, where that is not zero; ordered by
    /// rule, then source.
    pub fn windows(&self, now: Time) -> Vec<WindowValue> {
        self.evaluator.values(now)
    }

    /// How much is held.
    pub fn stats(&self) -> Stats {
        Stats {
            open_flows: (self.table.len() + self.ending.len()) as u64,
            vanished_flows: self.table.vanished(),
            rules: self.evaluator.stats(),
        }
    }

    fn see(&mut self, name: Name, flow: &Flow, effects: &mut Effects) {
        if End::of(flow, &self.limits).at <= self.now {
            effects.deltas.extend(self.table.take(name, flow));
            self.ending.push(flow.clone());
            return;
        }
        let seen = self.table.see(name, flow);
        effects.deltas.extend(seen.delta);
        if let Some(at) = self.limits.interval(flow, seen.before, self.now) {
            self.make(flow.clone(), End { at, reason: RecordReason::Active }, effects);
        }
    }

    /// Flows that ended but were not taken out live on.
    fn remain(&mut self) {
        self.ending.drain(..).for_each(|flow| self.table.put(&flow));
        self.ending.shrink_to(KEPT);
    }

    fn conclude(&mut self, flow: &Flow, end: End, effects: &mut Effects) {
        let [name] = self.table.names(std::slice::from_ref(flow));
        effects.deltas.extend(self.table.take(name, flow));
        self.make(flow.clone(), end, effects);
    }

    fn make(&mut self, flow: Flow, end: End, effects: &mut Effects) {
        let record = lifetime::record(flow, &self.settings.services, end.reason);
        // Of most records no rule wants to know, and those need not wait for their turn.
        if self.evaluator.wants(&record, &self.settings.internal) {
            let time = record.time();
            self.arrivals.push(Arrival { at: end.at.max(time), time, record: Arc::new(record.clone()) });
        }
        effects.records.push(record);
    }

    /// Gives a record to the rules; a flow counts once for each.
    fn deliver(&mut self, at: Time, record: Arc<FlowRecord>, effects: &mut Effects) {
        let counted = self.table.counted(&record.flow);
        let counted = self.evaluator.admit(at, &record, counted, &self.settings.internal, effects);
        match record.reason {
            RecordReason::Active => self.table.mark(&record.flow, counted),
            _ => self.table.unmark(&record.flow),
        }
    }
}

impl Arrival {
    fn moment(&self) -> (Time, Time) {
        (self.at, self.time)
    }

    /// Which of equal moments goes first.
    fn ends(&self) -> impl Ord + use<> {
        let key = &self.record.flow.key;
        (key.client.ip(), key.client_port, key.server.ip(), key.server_port)
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
