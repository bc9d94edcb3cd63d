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
//!
//! Modules, in the order in which data passes them:
//!
//! | module | |
//! |---|---|
//! | [`time`] | packet clock, and its place on the wall clock |
//! | [`settings`] | settings of the engine |
//! | [`flow`] | flows, their deltas, timeouts and records |
//! | [`network`] | addresses, located against the internal networks |
//! | [`rule`] | rules, and their match against records |
//! | [`eval`] | evaluation of the rules, by group |
//! | [`eval::window`] | windows of event time |
//! | [`alert`] | incidents and their alerts |
//! | [`effects`] | output of each call |
//! | [`checkpoint`] | state that a later process continues from |
//! | [`query`] | questions about the state |

#![forbid(unsafe_code)]

pub mod alert;
pub mod checkpoint;
pub mod effects;
pub mod eval;
pub mod flow;
pub mod network;
pub mod query;
pub mod rule;
pub mod settings;
pub mod time;

use std::sync::Arc;

pub use self::eval::stats::{RuleCounts, RuleStats};
use self::{
    effects::Effects,
    eval::{
        evaluator::Evaluator,
        pending::{PendingRecord, PendingRecords, RuleInput},
        window::value::WindowValue,
    },
    flow::{
        EvictOutcome, Flow, FlowRecord, RecordReason, SupersededFlow,
        fingerprint::FlowFingerprint,
        overflow::{OverflowDelta, SourceOverflow, SourceOverflowTable},
        phase::RecordPhase,
        recent_records::RecentRecords,
        table::{self, LiveFlowTable},
        timeout::{self, FlowEnd, TimeoutNanos},
    },
    network::Networks,
    settings::Settings,
    time::{Time, WallClockOffset},
};

/// Deltas, values, alerts and effects.
pub mod event {
    pub use crate::{
        alert::event::{Alert, AlertState, FlowTotals, RelayHint},
        effects::{Effects, Grouped, Qualified},
        eval::{
            group_key::Source,
            pending::RuleInput,
            window::value::{TermValue, Value, WindowValue},
        },
        flow::delta::{CounterDelta, Delta},
        rule::Severity,
    };
}

/// Flows looked at together.
const BATCH: usize = 32;

/// Ended flows for which room is kept from one reading to the next.
const KEPT: usize = 4_096;

/// Turns snapshots of the flow table into records and alerts.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    limits: TimeoutNanos,
    table: LiveFlowTable,
    spills: SourceOverflowTable,
    evaluator: Evaluator,
    /// The moment of the reading that is on.
    now: Time,
    /// Flows it found ended, with their gains booked. The table has forgotten them.
    ending: Vec<Flow>,
    /// Records the rules have not seen yet, or saw last.
    arrivals: PendingRecords,
    /// What sources gained beyond the flow table, and the rules have not seen yet.
    overflowed: Vec<OverflowDelta>,
    /// The newest records, to be explained.
    recent: RecentRecords,
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

/// What came of other settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReconfigureOutcome {
    /// The rules whose windows begin anew.
    pub restarted: Vec<Arc<str>>,
    /// What time had brought by then, and the ends of the incidents of rules that are gone.
    pub effects: Effects,
}

impl Engine {
    /// An engine that has seen nothing yet.
    pub fn new(mut settings: Settings) -> Self {
        let limits = TimeoutNanos::new(&settings.timeouts);
        let rules = std::mem::take(&mut settings.rules);
        let evaluator = Evaluator::new(
            (rules, settings.limits),
            settings.v6_source_prefix,
            limits.lateness(),
            settings.epoch,
        );
        let (table, spills) = (LiveFlowTable::default(), SourceOverflowTable::default());
        let (ending, arrivals, overflowed) = (Vec::new(), PendingRecords::default(), Vec::new());
        Self {
            settings,
            limits,
            table,
            spills,
            evaluator,
            now: Time::ZERO,
            ending,
            arrivals,
            overflowed,
            recent: RecentRecords::new(),
        }
    }

    /// The internal networks in force.
    pub fn internal(&self) -> &Networks {
        &self.settings.internal
    }

    /// From now on these are the internal networks. What was counted stays counted; records that come are
    /// judged by the new list.
    pub fn set_internal(&mut self, internal: Networks) {
        self.settings.internal = internal;
    }

    /// From now on these are the settings, at `now`. Rules whose match, grouping, measures and windows stay
    /// what they were keep what they hold, under the thresholds that are new. The others are named: their
    /// windows begin anew, and their incidents go on, if they speak about the same subjects. Incidents of
    /// rules that are gone end. The grouping of sources stays what it was.
    pub fn reconfigure(&mut self, now: Time, mut settings: Settings) -> ReconfigureOutcome {
        let mut effects = self.tick(now);
        self.limits = TimeoutNanos::new(&settings.timeouts);
        let rules = std::mem::take(&mut settings.rules);
        (settings.v6_source_prefix, settings.epoch) = (self.settings.v6_source_prefix, self.settings.epoch);
        let lateness = self.limits.lateness();
        let changed =
            self.evaluator.reconfigure((rules, settings.limits), lateness, &settings.internal, &mut effects);
        self.table.renumber(|rule| changed.numbers.get(rule).copied().flatten());
        self.settings = settings;
        ReconfigureOutcome { restarted: changed.restarted, effects }
    }

    /// Where the packet clock lies on the wall clock from now on. Live, the wall clock may be set.
    pub fn set_epoch(&mut self, epoch: WallClockOffset) {
        self.settings.epoch = epoch;
        self.evaluator.epoch = epoch;
    }

    /// A reading of the flow table begins.
    pub fn begin(&mut self, now: Time) {
        self.remain();
        self.now = now;
        self.table.begin(now);
    }

    /// The flows that others on the same tuple have followed: their last gains and their records. Comes
    /// before the parts of the same reading.
    pub fn finish(&mut self, finished: &[SupersededFlow]) -> Effects {
        self.remain();
        let mut effects = Effects::default();
        for SupersededFlow { flow, replaced } in finished {
            let end = FlowEnd::of(flow, &self.limits);
            // A SYN may follow a flow sooner than silence would have ended it.
            let end = if end.at <= *replaced {
                end
            } else {
                FlowEnd { at: *replaced, reason: RecordReason::Closed }
            };
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
            // One that is new and over already has never been in the table.
            let short =
                |flow: &Flow| self.table.is_new(flow) && FlowEnd::of(flow, &self.limits).at <= self.now;
            let names = self.table.names::<BATCH>(flows, short);
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
    pub fn end(&mut self, fates: &[EvictOutcome]) -> Effects {
        let mut effects = Effects::default();
        effects.records.reserve(fates.len());
        let mut ending = std::mem::take(&mut self.ending);
        for (flow, fate) in ending.drain(..fates.len().min(ending.len())).zip(fates) {
            match fate {
                EvictOutcome::Evicted | EvictOutcome::Missing => {
                    let end = FlowEnd::of(&flow, &self.limits);
                    self.make(flow, end, &mut effects);
                }
                EvictOutcome::Changed => self.table.put(&flow),
            }
        }
        self.ending = ending;
        self.remain();
        effects
    }

    /// What sources have beyond the flow table: their gains. There are no records of them.
    pub fn overflow(&mut self, spilled: &[SourceOverflow]) -> Effects {
        let mut effects = Effects::default();
        for (delta, gain) in spilled.iter().filter_map(|spill| self.spills.look(spill)) {
            effects.deltas.push(delta);
            self.overflowed.push(gain);
        }
        effects
    }

    /// Lets time pass: the rules see the records made so far, alerts are repeated and resolved.
    pub fn tick(&mut self, now: Time) -> Effects {
        let mut effects = Effects::default();
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.sort();
        for arrival in arrivals.in_order() {
            self.deliver(arrival, &mut effects);
        }
        self.arrivals = arrivals;
        for gain in std::mem::take(&mut self.overflowed) {
            self.evaluator.overflow(&gain, &self.settings.internal, &mut effects);
        }
        self.pass(now, &mut effects);
        effects
    }

    /// The last look at a part of the table: every open flow gets its record. [`Engine::shutdown`]
    /// follows.
    pub fn look_last(&mut self, now: Time, flows: &[Flow]) -> Effects {
        self.remain();
        let mut effects = Effects::default();
        for flow in flows {
            let end = FlowEnd::of(flow, &self.limits);
            let end = if end.at <= now { end } else { FlowEnd { at: now, reason: RecordReason::Shutdown } };
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
    pub fn record(&mut self, now: Time, record: &FlowRecord) -> Effects {
        let mut effects = Effects::default();
        self.record_into(now, record, &mut effects);
        effects
    }

    /// Does so, and adds to `effects`: of millions of records few have any.
    pub fn record_into(&mut self, now: Time, record: &FlowRecord, effects: &mut Effects) {
        self.recent.push(record);
        self.present(now, record, RecordPhase::of(record.reason), effects);
    }

    /// Brings what the rules remember of the sources of the next records into the caches, at most [`Engine::AHEAD`]
    /// at once. It changes nothing else.
    pub fn prefetch<'a>(&self, next: impl Iterator<Item = &'a FlowRecord>) {
        self.evaluator.prefetch(next.take(Self::AHEAD));
    }

    /// Records that are worth a look ahead at once.
    pub const AHEAD: usize = 16;

    /// The records that the rules were shown at the last [`Engine::tick`], and when, in that order: judged so
    /// again by an engine without any, they leave the same windows and alerts.
    pub fn judged(&self) -> impl Iterator<Item = RuleInput<'_>> {
        self.arrivals.judged()
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

    /// What each rule holds, and what it could not take; in the order of the rules.
    pub fn rule_counts(&self) -> Vec<RuleCounts> {
        self.evaluator.counts()
    }

    fn see(&mut self, name: Option<FlowFingerprint>, flow: &Flow, effects: &mut Effects) {
        let Some(name) = name else {
            effects.deltas.push(table::all(flow));
            self.ending.push(flow.clone());
            return;
        };
        if FlowEnd::of(flow, &self.limits).at <= self.now {
            effects.deltas.extend(self.table.take(name, flow));
            self.ending.push(flow.clone());
            return;
        }
        let seen = self.table.see(name, flow);
        let gained = seen.delta.is_some();
        effects.deltas.extend(seen.delta);
        if let Some(at) = self.limits.interval(flow, seen.before, self.now) {
            self.make(flow.clone(), FlowEnd { at, reason: RecordReason::Active }, effects);
        } else if gained && self.evaluator.is_live() {
            self.show(flow);
        }
    }

    /// Lets the rules see what an open flow gained, if that is enough to matter before its next record.
    fn show(&mut self, flow: &Flow) {
        if !self.table.show(flow) {
            return;
        }
        let record = timeout::record(flow.clone(), &self.settings.services, RecordReason::Active);
        let fit = self.evaluator.fit(&record, RecordPhase::Live, &self.settings.internal);
        if !fit.is_empty() {
            self.arrivals.push(self.now, RecordPhase::Live, fit, record);
        }
    }

    /// Flows that ended but were not taken out live on.
    fn remain(&mut self) {
        self.ending.drain(..).for_each(|flow| self.table.put(&flow));
        self.ending.shrink_to(KEPT);
    }

    fn conclude(&mut self, flow: &Flow, end: FlowEnd, effects: &mut Effects) {
        effects.deltas.extend(self.table.take(self.table.name(flow), flow));
        self.make(flow.clone(), end, effects);
    }

    fn make(&mut self, flow: Flow, end: FlowEnd, effects: &mut Effects) {
        let record = timeout::record(flow, &self.settings.services, end.reason);
        let stage = RecordPhase::of(end.reason);
        let fit = self.evaluator.fit(&record, stage, &self.settings.internal);
        // Of most records no rule wants to know, and those need not wait for their turn.
        if stage == RecordPhase::Final {
            self.recent.push(&record);
        }
        if !fit.is_empty() {
            self.arrivals.push(end.at, stage, fit, record.clone());
        } else if stage == RecordPhase::Final {
            self.table.unmark(&record.flow);
        }
        effects.records.push(record);
    }

    /// Gives a record from elsewhere to the rules at `at`, and lets time pass until then.
    fn present(&mut self, at: Time, record: &FlowRecord, stage: RecordPhase, effects: &mut Effects) {
        let fit = self.evaluator.fit(record, stage, &self.settings.internal);
        self.deliver(PendingRecord { at: at.max(record.time()), stage, fit, record }, effects);
        self.pass(at, effects);
    }

    /// Time passes: what is due is told.
    fn pass(&mut self, now: Time, effects: &mut Effects) {
        let told = effects.alerts.len();
        self.evaluator.advance(now, &self.settings.internal, effects);
        self.hint(effects.alerts.get_mut(told..).unwrap_or_default());
    }

    /// Gives a record to the rules; a flow counts once for each.
    fn deliver(&mut self, arrival: PendingRecord<'_>, effects: &mut Effects) {
        let flow = &arrival.record.flow;
        let mut tally = self.table.tally(flow);
        let told = effects.alerts.len();
        self.evaluator.admit(arrival, &mut tally, &self.settings.internal, effects);
        self.hint(effects.alerts.get_mut(told..).unwrap_or_default());
        match arrival.record.reason {
            RecordReason::Active => self.table.mark(flow, tally),
            _ => self.table.unmark(flow),
        }
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
