//! The engine: from snapshots of the flow table to records and alerts.
//!
//! No clock, no I/O, no aya: time and flows come in as values, effects go out as values.
//!
//! A cycle of the caller is a reading of the flow table and what follows from it: [`Engine::begin`],
//! [`Engine::finish`], [`Engine::look`] with one part of the table after the other, [`Engine::overflow`], and then
//! [`Engine::tick`]. After each part, or after the last, the caller takes [`Engine::pending_eviction`] out of the
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
        effects::{AggregatedAlert, Effects, MatchedFlow},
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
const BATCH_FLOWS: usize = 32;

/// Ended flows for which room is kept from one reading to the next.
const RETAINED_CAPACITY: usize = 4_096;

/// Turns snapshots of the flow table into records and alerts.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    limits: TimeoutNanos,
    flow_table: LiveFlowTable,
    source_overflow: SourceOverflowTable,
    evaluator: Evaluator,
    /// The moment of the reading that is on.
    now: Time,
    /// Flows it found ended, with their gains booked. The table has forgotten them.
    pending_eviction: Vec<Flow>,
    /// Records the rules have not seen yet, or saw last.
    pending_records: PendingRecords,
    /// What sources gained beyond the flow table, and the rules have not seen yet.
    overflow_deltas: Vec<OverflowDelta>,
    /// The newest records, to be explained.
    recent_records: RecentRecords,
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
            settings.clock_offset,
        );
        let (flow_table, source_overflow) = (LiveFlowTable::default(), SourceOverflowTable::default());
        let (pending_eviction, pending_records, overflow_deltas) =
            (Vec::new(), PendingRecords::default(), Vec::new());
        Self {
            settings,
            limits,
            flow_table,
            source_overflow,
            evaluator,
            now: Time::ZERO,
            pending_eviction,
            pending_records,
            overflow_deltas,
            recent_records: RecentRecords::new(),
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
        (settings.v6_source_prefix, settings.clock_offset) =
            (self.settings.v6_source_prefix, self.settings.clock_offset);
        let lateness = self.limits.lateness();
        let changed =
            self.evaluator.reconfigure((rules, settings.limits), lateness, &settings.internal, &mut effects);
        self.flow_table.renumber_rules(|rule| changed.rule_numbers.get(rule).copied().flatten());
        self.settings = settings;
        ReconfigureOutcome { restarted: changed.restarted, effects }
    }

    /// Where the packet clock lies on the wall clock from now on. Live, the wall clock may be set.
    pub fn set_clock_offset(&mut self, clock_offset: WallClockOffset) {
        self.settings.clock_offset = clock_offset;
        self.evaluator.clock_offset = clock_offset;
    }

    /// A reading of the flow table begins.
    pub fn begin_poll(&mut self, now: Time) {
        self.requeue_pending();
        self.now = now;
        self.flow_table.begin_poll(now);
    }

    /// The flows that others on the same tuple have followed: their last gains and their records. Comes
    /// before the parts of the same reading.
    pub fn finish_superseded(&mut self, superseded: &[SupersededFlow]) -> Effects {
        self.requeue_pending();
        let mut effects = Effects::default();
        for SupersededFlow { flow, superseded_at } in superseded {
            let end = FlowEnd::of(flow, &self.limits);
            // A SYN may follow a flow sooner than silence would have ended it.
            let end = if end.at <= *superseded_at {
                end
            } else {
                FlowEnd { at: *superseded_at, reason: RecordReason::Closed }
            };
            self.finish_flow(flow, end, &mut effects);
        }
        effects
    }

    /// Looks at a part of the flow table: what each flow gained, and records of living flows whose
    /// active interval has passed.
    ///
    /// A flow is the same one as long as its `first` is. One that a reading does not show is not
    /// forgotten: it may be back in the next.
    pub fn observe_batch(&mut self, flows: &[Flow]) -> Effects {
        let mut effects = Effects::default();
        effects.deltas.reserve(flows.len());
        for flows in flows.chunks(BATCH_FLOWS) {
            // One that is new and over already has never been in the table.
            let is_ended =
                |flow: &Flow| self.flow_table.is_new(flow) && FlowEnd::of(flow, &self.limits).at <= self.now;
            let fingerprints = self.flow_table.fingerprints::<BATCH_FLOWS>(flows, is_ended);
            for (fingerprint, flow) in fingerprints.into_iter().zip(flows) {
                self.update_flow(fingerprint, flow, &mut effects);
            }
        }
        effects
    }

    /// The flows that had ended, of those looked at since [`Engine::begin`] or [`Engine::end`].
    ///
    /// The caller takes them out of the kernel's table, unless they have gained something meanwhile.
    pub fn pending_eviction(&self) -> &[Flow] {
        &self.pending_eviction
    }

    /// What became of [`Engine::pending_eviction`], in its order: those that are out of the kernel's table have
    /// their records. The others live, also those of which nothing is said; a later reading judges them
    /// again.
    pub fn apply_evictions(&mut self, outcomes: &[EvictOutcome]) -> Effects {
        let mut effects = Effects::default();
        effects.records.reserve(outcomes.len());
        let mut pending_eviction = std::mem::take(&mut self.pending_eviction);
        for (flow, outcome) in
            pending_eviction.drain(..outcomes.len().min(pending_eviction.len())).zip(outcomes)
        {
            match outcome {
                EvictOutcome::Evicted | EvictOutcome::Missing => {
                    let end = FlowEnd::of(&flow, &self.limits);
                    self.emit_record(flow, end, &mut effects);
                }
                EvictOutcome::Changed => self.flow_table.insert(&flow),
            }
        }
        self.pending_eviction = pending_eviction;
        self.requeue_pending();
        effects
    }

    /// What sources have beyond the flow table: their gains. There are no records of them.
    pub fn observe_overflow(&mut self, counters: &[SourceOverflow]) -> Effects {
        let mut effects = Effects::default();
        for (delta, overflow_delta) in
            counters.iter().filter_map(|counters| self.source_overflow.observe(counters))
        {
            effects.deltas.push(delta);
            self.overflow_deltas.push(overflow_delta);
        }
        effects
    }

    /// Lets time pass: the rules see the records made so far, alerts are repeated and resolved.
    pub fn tick(&mut self, now: Time) -> Effects {
        let mut effects = Effects::default();
        let mut pending_records = std::mem::take(&mut self.pending_records);
        pending_records.sort();
        for pending in pending_records.in_order() {
            self.evaluate(pending, &mut effects);
        }
        self.pending_records = pending_records;
        for delta in std::mem::take(&mut self.overflow_deltas) {
            self.evaluator.ingest_overflow(&delta, &self.settings.internal, &mut effects);
        }
        self.advance_to(now, &mut effects);
        effects
    }

    /// The last look at a part of the table: every open flow gets its record. [`Engine::shutdown`]
    /// follows.
    pub fn observe_final_batch(&mut self, now: Time, flows: &[Flow]) -> Effects {
        self.requeue_pending();
        let mut effects = Effects::default();
        for flow in flows {
            let end = FlowEnd::of(flow, &self.limits);
            let end = if end.at <= now { end } else { FlowEnd { at: now, reason: RecordReason::Shutdown } };
            self.finish_flow(flow, end, &mut effects);
        }
        effects
    }

    /// The end: the rules see the last records, and no flow is remembered.
    pub fn shutdown(&mut self, now: Time) -> Effects {
        self.flow_table.clear();
        self.tick(now)
    }

    /// Gives a record from elsewhere, such as a flow log, to the rules. `now` is the moment at which
    /// it was made; records are given in that order.
    pub fn ingest_record(&mut self, now: Time, record: &FlowRecord) -> Effects {
        let mut effects = Effects::default();
        self.ingest_record_into(now, record, &mut effects);
        effects
    }

    /// Does so, and adds to `effects`: of millions of records few have any.
    pub fn ingest_record_into(&mut self, now: Time, record: &FlowRecord, effects: &mut Effects) {
        self.recent_records.push(record);
        self.ingest_external(now, record, RecordPhase::of(record.reason), effects);
    }

    /// Brings what the rules remember of the sources of the next records into the caches, at most [`Engine::PREFETCH_RECORDS`]
    /// at once. It changes nothing else.
    pub fn prefetch<'a>(&self, next: impl Iterator<Item = &'a FlowRecord>) {
        self.evaluator.prefetch(next.take(Self::PREFETCH_RECORDS));
    }

    /// Records that are worth a look ahead at once.
    pub const PREFETCH_RECORDS: usize = 16;

    /// The records that the rules were shown at the last [`Engine::tick`], and when, in that order: judged so
    /// again by an engine without any, they leave the same windows and alerts.
    pub fn rule_inputs(&self) -> impl Iterator<Item = RuleInput<'_>> {
        self.pending_records.rule_inputs()
    }

    /// What each rule's window holds for each source at `now`, where that is not zero; ordered by
    /// rule, then source.
    pub fn window_values(&self, now: Time) -> Vec<WindowValue> {
        self.evaluator.values(now)
    }

    /// How much is held.
    pub fn stats(&self) -> Stats {
        Stats {
            open_flows: (self.flow_table.len() + self.pending_eviction.len()) as u64,
            vanished_flows: self.flow_table.lost(),
            rules: self.evaluator.stats(),
        }
    }

    /// What each rule holds, and what it could not take; in the order of the rules.
    pub fn rule_counts(&self) -> Vec<RuleCounts> {
        self.evaluator.counts()
    }

    fn update_flow(&mut self, fingerprint: Option<FlowFingerprint>, flow: &Flow, effects: &mut Effects) {
        let Some(fingerprint) = fingerprint else {
            effects.deltas.push(table::first_delta(flow));
            self.pending_eviction.push(flow.clone());
            return;
        };
        if FlowEnd::of(flow, &self.limits).at <= self.now {
            effects.deltas.extend(self.flow_table.remove(fingerprint, flow));
            self.pending_eviction.push(flow.clone());
            return;
        }
        let update = self.flow_table.update(fingerprint, flow);
        let has_delta = update.delta.is_some();
        effects.deltas.extend(update.delta);
        if let Some(at) = self.limits.elapsed_interval(flow, update.previous, self.now) {
            self.emit_record(flow.clone(), FlowEnd { at, reason: RecordReason::Active }, effects);
        } else if has_delta && self.evaluator.is_live() {
            self.offer_live(flow);
        }
    }

    /// Lets the rules see what an open flow gained, if that is enough to matter before its next record.
    fn offer_live(&mut self, flow: &Flow) {
        if !self.flow_table.has_live_update(flow) {
            return;
        }
        let record = timeout::record(flow.clone(), &self.settings.services, RecordReason::Active);
        let mask = self.evaluator.matching_rules(&record, RecordPhase::Live, &self.settings.internal);
        if !mask.is_empty() {
            self.pending_records.push(self.now, RecordPhase::Live, mask, record);
        }
    }

    /// Flows that ended but were not taken out live on.
    fn requeue_pending(&mut self) {
        self.pending_eviction.drain(..).for_each(|flow| self.flow_table.insert(&flow));
        self.pending_eviction.shrink_to(RETAINED_CAPACITY);
    }

    fn finish_flow(&mut self, flow: &Flow, end: FlowEnd, effects: &mut Effects) {
        effects.deltas.extend(self.flow_table.remove(self.flow_table.fingerprint(flow), flow));
        self.emit_record(flow.clone(), end, effects);
    }

    fn emit_record(&mut self, flow: Flow, end: FlowEnd, effects: &mut Effects) {
        let record = timeout::record(flow, &self.settings.services, end.reason);
        let phase = RecordPhase::of(end.reason);
        let mask = self.evaluator.matching_rules(&record, phase, &self.settings.internal);
        // Of most records no rule wants to know, and those need not wait for their turn.
        if phase == RecordPhase::Final {
            self.recent_records.push(&record);
        }
        if !mask.is_empty() {
            self.pending_records.push(end.at, phase, mask, record.clone());
        } else if phase == RecordPhase::Final {
            self.flow_table.remove_contribution(&record.flow);
        }
        effects.records.push(record);
    }

    /// Gives a record from elsewhere to the rules at `at`, and lets time pass until then.
    fn ingest_external(&mut self, at: Time, record: &FlowRecord, phase: RecordPhase, effects: &mut Effects) {
        let mask = self.evaluator.matching_rules(record, phase, &self.settings.internal);
        self.evaluate(PendingRecord { at: at.max(record.time()), phase, mask, record }, effects);
        self.advance_to(at, effects);
    }

    /// Time passes: what is due is told.
    fn advance_to(&mut self, now: Time, effects: &mut Effects) {
        let first_alert = effects.alerts.len();
        self.evaluator.advance(now, &self.settings.internal, effects);
        self.attach_relay_hints(effects.alerts.get_mut(first_alert..).unwrap_or_default());
    }

    /// Gives a record to the rules; a flow counts once for each.
    fn evaluate(&mut self, pending: PendingRecord<'_>, effects: &mut Effects) {
        let flow = &pending.record.flow;
        let mut contribution = self.flow_table.contribution(flow);
        let first_alert = effects.alerts.len();
        self.evaluator.ingest(pending, &mut contribution, &self.settings.internal, effects);
        self.attach_relay_hints(effects.alerts.get_mut(first_alert..).unwrap_or_default());
        match pending.record.reason {
            RecordReason::Active => self.flow_table.set_contribution(flow, contribution),
            _ => self.flow_table.remove_contribution(flow),
        }
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
