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
    pub fn known(&self) -> FlowTableCheckpoint {
        let (seeds, flows) = self.table.save();
        FlowTableCheckpoint { now: self.now, seeds, flows }
    }

    /// Goes on with those. Comes before anything else.
    pub fn know(&mut self, known: &FlowTableCheckpoint) {
        self.now = known.now;
        self.table.restore(known.now, known.seeds, &known.flows);
    }

    /// A reading that another engine made since then, of which [`Engine::recall`] and the like tell.
    pub fn begin_again(&mut self, now: Time) {
        self.remain();
        self.now = now;
        self.table.again(now);
    }

    /// Shows the rules again what they were shown.
    pub fn judge_again(&mut self, RuleInput { at, record, open }: RuleInput<'_>) -> Effects {
        let stage = if open { RecordPhase::Live } else { RecordPhase::of(record.reason) };
        // The state may be older than that, and have it among what they have not seen.
        self.arrivals.forget(at, stage, &record.flow);
        let mut effects = Effects::default();
        self.present(at, record, stage, &mut effects);
        effects
    }

    /// A flow that another engine has made its last record of: what it gained since it was known.
    pub fn forget(&mut self, flow: &Flow) -> Option<Delta> {
        self.table.take(self.table.name(flow), flow)
    }

    /// A flow that another engine has made an active record of in this reading: what it gained.
    pub fn recall(&mut self, flow: &Flow) -> Option<Delta> {
        self.table.see(self.table.name(flow), flow).delta
    }

    /// An open flow one of whose active intervals had passed in this reading, without its record as yet. When it was
    /// looked at before that, a state does not tell for certain: it takes every flow for seen.
    pub fn conclude_interval(&mut self, flow: &Flow) -> Effects {
        let mut effects = Effects::default();
        effects.deltas.extend(self.recall(flow));
        let at = self.limits.interval(flow, None, self.now).unwrap_or(self.now);
        self.make(flow.clone(), FlowEnd { at, reason: RecordReason::Active }, &mut effects);
        effects
    }

    /// A flow that ended and is out of the table, without a record as yet.
    pub fn conclude_ended(&mut self, flow: &Flow) -> Effects {
        let mut effects = Effects::default();
        self.conclude(flow, FlowEnd::of(flow, &self.limits), &mut effects);
        effects
    }

    /// The last record of a flow that ended.
    pub fn last_record(&self, flow: &Flow) -> FlowRecord {
        self.record_for(flow, FlowEnd::of(flow, &self.limits).reason)
    }

    /// The last record of a flow that another one on its tuple followed.
    pub fn finished_record(&self, SupersededFlow { flow, replaced }: &SupersededFlow) -> FlowRecord {
        let end = FlowEnd::of(flow, &self.limits);
        self.record_for(flow, if end.at <= *replaced { end.reason } else { RecordReason::Closed })
    }

    /// A record of a flow.
    pub fn record_for(&self, flow: &Flow, reason: RecordReason) -> FlowRecord {
        timeout::record(flow.clone(), &self.settings.services, reason)
    }
}
