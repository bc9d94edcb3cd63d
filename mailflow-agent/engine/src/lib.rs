//! Engine: turns polls of the flow table into flow records and alerts.
//!
//! The engine reads no clock and does no I/O. Time and flows come in as values, and effects go out as values.
//!
//! The caller drives one poll in this order:
//!
//! 1. [`Engine::begin_poll`]
//! 2. [`Engine::finish_superseded`]
//! 3. [`Engine::observe_batch`], for each batch of the flow table. After each batch, or after the last one, the
//!    caller evicts [`Engine::pending_eviction`] from the kernel's table and reports the outcomes to
//!    [`Engine::apply_evictions`].
//! 4. [`Engine::observe_overflow`]
//! 5. [`Engine::tick`]
//!
//! The engine does not hold the flow table, which may be far larger than the state that the engine keeps of it.
//!
//! Results do not depend on the poll interval. A flow ends at its last packet plus a timeout. The rules get final
//! records in the order of these ends, each at the time of its end. Alerts repeat and resolve at their own times in
//! between. Records of equal end times are ordered by event time, then by client address and port, then by server
//! address and port. Only interim records depend on the time of the poll: they carry the counters that the flow had
//! then.
//!
//! Modules, in the order in which data passes through them:
//!
//! | module | |
//! |---|---|
//! | [`time`] | packet clock, and its offset from the wall clock |
//! | [`settings`] | settings of the engine |
//! | [`flow`] | flows, their deltas, timeouts and records |
//! | [`network`] | addresses, resolved against the internal networks |
//! | [`rule`] | rules, and their match against records |
//! | [`eval`] | evaluation of the rules, by group |
//! | [`eval::window`] | windows of event time |
//! | [`alert`] | incidents and their alerts |
//! | [`effects`] | output of each call |
//! | [`checkpoint`] | state from which a new process continues |
//! | [`query`] | read-only queries of the state |

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

/// Types of the engine's output: deltas, values, alerts and effects.
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

/// Flows whose table entries are prefetched together.
const BATCH_FLOWS: usize = 32;

/// Capacity of the list of flows pending eviction that is retained between polls, in flows.
const RETAINED_CAPACITY: usize = 4_096;

/// Engine: turns polls of the flow table into flow records and alerts.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    limits: TimeoutNanos,
    flow_table: LiveFlowTable,
    source_overflow: SourceOverflowTable,
    evaluator: Evaluator,
    /// Time of the current poll.
    now: Time,
    /// Flows that the current poll found ended. Their deltas are emitted, and `flow_table` does not hold them any
    /// more.
    pending_eviction: Vec<Flow>,
    /// Records that the rules evaluate at the next tick, or evaluated at the last one.
    pending_records: PendingRecords,
    /// Overflow deltas that the rules evaluate at the next tick.
    overflow_deltas: Vec<OverflowDelta>,
    /// Newest records, for [`Engine::explain`] and relay hints.
    recent_records: RecentRecords,
}

/// Amount of state that the engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Flows that have not ended.
    pub open_flows: u64,
    /// Flows that disappeared from the kernel's table without an eviction, since the start. Their packets are
    /// counted, but they have no final record.
    pub vanished_flows: u64,
    /// State of the rules.
    pub rules: RuleStats,
}

/// Outcome of new settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReconfigureOutcome {
    /// Rules whose windows start empty.
    pub restarted: Vec<Arc<str>>,
    /// Effects of the time up to the change, and the resolved alerts of removed rules.
    pub effects: Effects,
}

impl Engine {
    /// Returns an engine without state.
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

    /// Returns the internal networks.
    pub fn internal(&self) -> &Networks {
        &self.settings.internal
    }

    /// Replaces the internal networks. Counted flows stay counted; later records are matched against the new list.
    pub fn set_internal(&mut self, internal: Networks) {
        self.settings.internal = internal;
    }

    /// Replaces the settings at `now`.
    ///
    /// A rule with an unchanged match, grouping, measures and windows keeps its windows, under the new thresholds.
    /// Every other changed rule is listed in the outcome: its windows start empty, and its incidents continue if
    /// the grouping is unchanged. Incidents of removed rules end. The prefix length of IPv6 sources stays as it
    /// was.
    pub fn reconfigure(&mut self, now: Time, mut settings: Settings) -> ReconfigureOutcome {
        let mut effects = self.tick(now);
        self.limits = TimeoutNanos::new(&settings.timeouts);
        let rules = std::mem::take(&mut settings.rules);
        (settings.v6_source_prefix, settings.clock_offset) =
            (self.settings.v6_source_prefix, self.settings.clock_offset);
        let lateness = self.limits.lateness();
        let changed = self.evaluator.reconfigure((rules, settings.limits), lateness, &mut effects);
        self.flow_table.renumber_rules(|rule| changed.rule_numbers.get(rule).copied().flatten());
        self.settings = settings;
        ReconfigureOutcome { restarted: changed.restarted, effects }
    }

    /// Sets the offset of the packet clock from the wall clock. Live, the wall clock may be adjusted.
    pub fn set_clock_offset(&mut self, clock_offset: WallClockOffset) {
        self.settings.clock_offset = clock_offset;
        self.evaluator.clock_offset = clock_offset;
    }

    /// Begins a poll of the flow table at `now`.
    pub fn begin_poll(&mut self, now: Time) {
        self.requeue_pending();
        self.now = now;
        self.flow_table.begin_poll(now);
    }

    /// Ends superseded flows: emits their last deltas and their records. Call before the batches of the same poll.
    pub fn finish_superseded(&mut self, superseded: &[SupersededFlow]) -> Effects {
        self.requeue_pending();
        let mut effects = Effects::default();
        for SupersededFlow { flow, superseded_at } in superseded {
            let end = FlowEnd::of(flow, &self.limits);
            // A SYN can start a new flow before the idle timeout of the old one (RFC 9293, reuse of a port).
            let end = if end.at <= *superseded_at {
                end
            } else {
                FlowEnd { at: *superseded_at, reason: RecordReason::Closed }
            };
            self.finish_flow(flow, end, &mut effects);
        }
        effects
    }

    /// Processes a batch of the flow table: emits the delta of each flow, and an interim record of each live flow
    /// whose active interval has elapsed.
    ///
    /// Key and `first` identify a flow. The engine keeps a flow that a poll does not show, as the next poll may
    /// show it again.
    pub fn observe_batch(&mut self, flows: &[Flow]) -> Effects {
        let mut effects = Effects::default();
        effects.deltas.reserve(flows.len());
        for flows in flows.chunks(BATCH_FLOWS) {
            // A flow that is new and has ended is not in `flow_table`, so its entry needs no prefetch.
            let is_ended =
                |flow: &Flow| self.flow_table.is_new(flow) && FlowEnd::of(flow, &self.limits).at <= self.now;
            let fingerprints = self.flow_table.fingerprints::<BATCH_FLOWS>(flows, is_ended);
            for (fingerprint, flow) in fingerprints.into_iter().zip(flows) {
                self.update_flow(fingerprint, flow, &mut effects);
            }
        }
        effects
    }

    /// Returns the ended flows of the batches since [`Engine::begin_poll`] or [`Engine::apply_evictions`].
    ///
    /// The caller evicts each of them from the kernel's table unless its counters have changed.
    pub fn pending_eviction(&self) -> &[Flow] {
        &self.pending_eviction
    }

    /// Applies the outcomes of evicting [`Engine::pending_eviction`], in the same order. Emits the final record of
    /// each flow that is not in the kernel's table any more. All other flows, also those without an outcome, stay
    /// live, and a later poll decides about them.
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

    /// Processes the overflow counters of sources: emits their deltas. Overflow has no records.
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

    /// Advances the time to `now`: the rules evaluate the pending records, and alerts repeat and resolve.
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

    /// Processes a batch of the last poll: emits a record of every open flow. Call [`Engine::shutdown`] after the
    /// last batch.
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

    /// Shuts down: the rules evaluate the pending records, and the engine drops all flows.
    pub fn shutdown(&mut self, now: Time) -> Effects {
        self.flow_table.clear();
        self.tick(now)
    }

    /// Evaluates a record of another source, such as a flow log. `now` is the time at which the record was made.
    /// Pass records in ascending order of that time.
    pub fn ingest_record(&mut self, now: Time, record: &FlowRecord) -> Effects {
        let mut effects = Effects::default();
        self.ingest_record_into(now, record, &mut effects);
        effects
    }

    /// Evaluates a record as [`Engine::ingest_record`] does, and appends to `effects`. Few of millions of records
    /// have any effect.
    pub fn ingest_record_into(&mut self, now: Time, record: &FlowRecord, effects: &mut Effects) {
        self.recent_records.push(record);
        self.ingest_external(now, record, RecordPhase::of(record.reason), effects);
    }

    /// Prefetches the groups of the sources of the next records, at most [`Engine::PREFETCH_RECORDS`]. Changes no
    /// state.
    pub fn prefetch<'a>(&self, next: impl Iterator<Item = &'a FlowRecord>) {
        self.evaluator.prefetch(next.take(Self::PREFETCH_RECORDS));
    }

    /// Largest useful number of records for one [`Engine::prefetch`].
    pub const PREFETCH_RECORDS: usize = 16;

    /// Returns the rule inputs of the last [`Engine::tick`], in the order of their evaluation. An engine without
    /// pending records that replays them gets equal windows and alerts.
    pub fn rule_inputs(&self) -> impl Iterator<Item = RuleInput<'_>> {
        self.pending_records.rule_inputs()
    }

    /// Returns the nonzero window values of each rule and group at `now`, ordered by rule, then by group key.
    pub fn window_values(&self, now: Time) -> Vec<WindowValue> {
        self.evaluator.values(now)
    }

    /// Returns the amount of state that the engine holds.
    pub fn stats(&self) -> Stats {
        Stats {
            open_flows: (self.flow_table.len() + self.pending_eviction.len()) as u64,
            vanished_flows: self.flow_table.lost(),
            rules: self.evaluator.stats(),
        }
    }

    /// Returns the counts of each rule, in the order of the rules.
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

    /// Adds a live update of an open flow to the pending records, if the flow gained enough since its last one.
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

    /// Puts the flows whose eviction was not confirmed back into `flow_table`.
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
        // Few records match a rule. The others need not wait for their turn.
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

    /// Evaluates a record of another source, and advances the time to `at`.
    fn ingest_external(&mut self, at: Time, record: &FlowRecord, phase: RecordPhase, effects: &mut Effects) {
        let mask = self.evaluator.matching_rules(record, phase, &self.settings.internal);
        self.evaluate(PendingRecord { at: at.max(record.time()), phase, mask, record }, effects);
        self.advance_to(at, effects);
    }

    /// Advances the time to `now`: repeats and resolves due alerts.
    fn advance_to(&mut self, now: Time, effects: &mut Effects) {
        let first_alert = effects.alerts.len();
        self.evaluator.advance(now, &self.settings.internal, effects);
        self.attach_relay_hints(effects.alerts.get_mut(first_alert..).unwrap_or_default());
    }

    /// Evaluates a record. A rule counts each flow once.
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
