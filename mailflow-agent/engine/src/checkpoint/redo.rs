//! Restore of the flow table, and redo of what a previous process did after its last checkpoint.

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
    /// The flows as they were last seen.
    pub fn checkpoint_flows(&self) -> FlowTableCheckpoint {
        let (seeds, flows) = self.flow_table.save();
        FlowTableCheckpoint { now: self.now, seeds, flows }
    }

    /// Goes on with those. Comes before anything else.
    pub fn restore_flows(&mut self, checkpoint: &FlowTableCheckpoint) {
        self.now = checkpoint.now;
        self.flow_table.restore(checkpoint.now, checkpoint.seeds, &checkpoint.flows);
    }

    /// A reading that another engine made since then, of which [`Engine::recall`] and the like tell.
    pub fn begin_recovered_poll(&mut self, now: Time) {
        self.requeue_pending();
        self.now = now;
        self.flow_table.begin_recovered_poll(now);
    }

    /// Shows the rules again what they were shown.
    pub fn replay_input(&mut self, RuleInput { at, record, live }: RuleInput<'_>) -> Effects {
        let phase = if live { RecordPhase::Live } else { RecordPhase::of(record.reason) };
        // The state may be older than that, and have it among what they have not seen.
        self.pending_records.remove(at, phase, &record.flow);
        let mut effects = Effects::default();
        self.ingest_external(at, record, phase, &mut effects);
        effects
    }

    /// A flow that another engine has made its last record of: what it gained since it was known.
    pub fn drop_flow(&mut self, flow: &Flow) -> Option<Delta> {
        self.flow_table.remove(self.flow_table.fingerprint(flow), flow)
    }

    /// A flow that another engine has made an active record of in this reading: what it gained.
    pub fn redo_delta(&mut self, flow: &Flow) -> Option<Delta> {
        self.flow_table.update(self.flow_table.fingerprint(flow), flow).delta
    }

    /// An open flow one of whose active intervals had passed in this reading, without its record as yet. When it was
    /// looked at before that, a state does not tell for certain: it takes every flow for seen.
    pub fn redo_interim_record(&mut self, flow: &Flow) -> Effects {
        let mut effects = Effects::default();
        effects.deltas.extend(self.redo_delta(flow));
        let at = self.limits.elapsed_interval(flow, None, self.now).unwrap_or(self.now);
        self.emit_record(flow.clone(), FlowEnd { at, reason: RecordReason::Active }, &mut effects);
        effects
    }

    /// A flow that ended and is out of the table, without a record as yet.
    pub fn redo_final_record(&mut self, flow: &Flow) -> Effects {
        let mut effects = Effects::default();
        self.finish_flow(flow, FlowEnd::of(flow, &self.limits), &mut effects);
        effects
    }

    /// The last record of a flow that ended.
    pub fn final_record(&self, flow: &Flow) -> FlowRecord {
        self.build_record(flow, FlowEnd::of(flow, &self.limits).reason)
    }

    /// The last record of a flow that another one on its tuple followed.
    pub fn superseded_record(&self, SupersededFlow { flow, superseded_at }: &SupersededFlow) -> FlowRecord {
        let end = FlowEnd::of(flow, &self.limits);
        self.build_record(flow, if end.at <= *superseded_at { end.reason } else { RecordReason::Closed })
    }

    /// A record of a flow.
    pub fn build_record(&self, flow: &Flow, reason: RecordReason) -> FlowRecord {
        timeout::record(flow.clone(), &self.settings.services, reason)
    }
}
