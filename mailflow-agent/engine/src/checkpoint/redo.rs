//! Restore of the flow table, and redo of the polls that a previous process made after its last checkpoint.

use super::flows::FlowTableCheckpoint;
use crate::{
    Engine,
    effects::Effects,
    eval::pending::RuleInput,
    flow::{
        Flow, FlowRecord, RecordReason, SupersededFlow,
        delta::Delta,
        phase::RecordPhase,
        timeout::{self, FlowEnd},
    },
    time::Time,
};

impl Engine {
    /// Returns the checkpoint of the flow table.
    pub fn checkpoint_flows(&self) -> FlowTableCheckpoint {
        let (seeds, flows) = self.flow_table.save();
        FlowTableCheckpoint { now: self.now, seeds, flows }
    }

    /// Restores the flow table from a checkpoint. Call before any other method that takes flows.
    pub fn restore_flows(&mut self, checkpoint: &FlowTableCheckpoint) {
        self.now = checkpoint.now;
        self.flow_table.restore(checkpoint.now, checkpoint.seeds, &checkpoint.flows);
    }

    /// Begins a poll that the previous process made after the checkpoint, for the redo methods below.
    pub fn begin_recovered_poll(&mut self, now: Time) {
        self.requeue_pending();
        self.now = now;
        self.flow_table.begin_recovered_poll(now);
    }

    /// Replays a rule input.
    pub fn replay_input(&mut self, RuleInput { at, record, live }: RuleInput<'_>) -> Effects {
        let phase = if live { RecordPhase::Live } else { RecordPhase::of(record.reason) };
        // The checkpoint may be older than this input, and contain it as pending.
        self.pending_records.remove(at, phase, &record.flow);
        let mut effects = Effects::default();
        self.ingest_external(at, record, phase, &mut effects);
        effects
    }

    /// Drops a flow whose final record the previous process made. Returns its delta since the checkpoint.
    pub fn drop_flow(&mut self, flow: &Flow) -> Option<Delta> {
        self.flow_table.remove(self.flow_table.fingerprint(flow), flow)
    }

    /// Redoes the delta of a flow whose interim record the previous process made in this poll.
    pub fn redo_delta(&mut self, flow: &Flow) -> Option<Delta> {
        self.flow_table.update(self.flow_table.fingerprint(flow), flow).delta
    }

    /// Redoes the missing interim record of an open flow whose active interval elapsed in this poll. The time of
    /// the previous poll of the flow is unknown: a checkpoint counts every flow as seen.
    pub fn redo_interim_record(&mut self, flow: &Flow) -> Effects {
        let mut effects = Effects::default();
        effects.deltas.extend(self.redo_delta(flow));
        let at = self.limits.elapsed_interval(flow, None, self.now).unwrap_or(self.now);
        self.emit_record(flow.clone(), FlowEnd { at, reason: RecordReason::Active }, &mut effects);
        effects
    }

    /// Redoes the missing final record of a flow that was evicted.
    pub fn redo_final_record(&mut self, flow: &Flow) -> Effects {
        let mut effects = Effects::default();
        self.finish_flow(flow, FlowEnd::of(flow, &self.limits), &mut effects);
        effects
    }

    /// Returns the final record of an ended flow.
    pub fn final_record(&self, flow: &Flow) -> FlowRecord {
        self.build_record(flow, FlowEnd::of(flow, &self.limits).reason)
    }

    /// Returns the final record of a superseded flow.
    pub fn superseded_record(&self, SupersededFlow { flow, superseded_at }: &SupersededFlow) -> FlowRecord {
        let end = FlowEnd::of(flow, &self.limits);
        self.build_record(flow, if end.at <= *superseded_at { end.reason } else { RecordReason::Closed })
    }

    /// Returns a record of a flow.
    pub fn build_record(&self, flow: &Flow, reason: RecordReason) -> FlowRecord {
        timeout::record(flow.clone(), &self.settings.services, reason)
    }
}
