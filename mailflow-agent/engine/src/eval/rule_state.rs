//! A rule with its subjects.

use std::sync::Arc;

use super::{
    group_state::GroupState,
    group_table::{AllowStatus, GroupTable},
    window::{state::TermSpec, value::Value},
};
use crate::{
    alert::{event::Alert, rate_limit::AlertRateLimit},
    flow::{FlowRecord, phase::RecordPhase},
    network::{Endpoints, Networks},
    rule::{Measure, compiled::CompiledRule},
    time::{Time, WallClockOffset},
};

/// A rule with its subjects.
#[derive(Debug)]
pub(crate) struct RuleState {
    pub(crate) plan: CompiledRule,
    pub(crate) unknown: GroupTable,
    pub(crate) allowed: GroupTable,
    pub(super) missed: MissedRecords,
    pub(crate) burst: AlertRateLimit,
}

/// Records that a rule counts and could not take, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MissedRecords {
    /// They came too late to be judged.
    pub(super) late: u64,
    /// There was no room for their subjects.
    pub(super) refused: u64,
    /// Subjects that made room for others.
    pub(super) evicted: u64,
}

impl RuleState {
    pub(super) fn new(plan: CompiledRule) -> Self {
        let (unknown, allowed) = (GroupTable::default(), GroupTable::default());
        Self { plan, unknown, allowed, missed: MissedRecords::default(), burst: AlertRateLimit::default() }
    }

    /// How many subjects it remembers, those with flows on an allow-list apart.
    pub(super) fn subjects(&self) -> u64 {
        (self.unknown.len() + self.allowed.len()) as u64
    }

    pub(crate) fn lane(&mut self, known: AllowStatus) -> (&CompiledRule, &mut GroupTable) {
        let lane = match known {
            AllowStatus::No => &mut self.unknown,
            AllowStatus::Allowed => &mut self.allowed,
        };
        (&self.plan, lane)
    }

    /// What the windows of one of its subjects hold at `now`: the number of each term, and its value where that
    /// is not zero. Ratios are left out: they say nothing without the number they are a part of.
    pub(crate) fn held<'a>(
        &'a self,
        watched: &'a GroupState,
        now: Time,
    ) -> impl Iterator<Item = (usize, Value)> + 'a {
        let stores = watched.terms(&self.plan);
        let counted = |frame: &TermSpec| !matches!(frame.measure, Measure::Ratio { .. });
        let terms = self.plan.frames().iter().enumerate().filter(move |(_, frame)| counted(frame));
        let values = terms.map(move |(term, _)| (term, self.plan.value(&stores, term, now)));
        values.filter(|(_, value)| value.number() > 0)
    }

    /// Returns true if the rule counts the flow of `record`, as far as that can be told without its ends.
    pub(super) fn fits(&self, record: &FlowRecord, stage: RecordPhase, epoch: WallClockOffset) -> bool {
        let matching = &self.plan.rule.matching;
        (stage != RecordPhase::Live || self.plan.live)
            && matching.judges(stage)
            && record.inputs.contains(matching.inputs())
            && matching.check_flow(&record.flow, record.app, epoch).is_ok()
    }

    /// Which flows one between these ends is taken together with.
    pub(super) fn known(&self, ends: &Endpoints<'_>, time: Time, epoch: WallClockOffset) -> AllowStatus {
        if self.plan.allowed(ends, time, epoch).is_some() { AllowStatus::Allowed } else { AllowStatus::No }
    }
}

/// Says why an alert about flows on an allow-list is suppressed.
pub(crate) fn excuse(
    plan: &CompiledRule,
    known: AllowStatus,
    alert: &mut Alert,
    internal: &Networks,
    epoch: WallClockOffset,
) {
    if known == AllowStatus::No {
        return;
    }
    let of = |record: &Arc<FlowRecord>| {
        let ends = Endpoints::of(&record.flow, internal);
        plan.allowed(&ends, record.time(), epoch).map(|allow| Arc::clone(&allow.reason))
    };
    let reason = alert.flows.iter().rev().find_map(of);
    alert.suppressed = Some(reason.unwrap_or_else(|| "on an allow-list".into()));
}
