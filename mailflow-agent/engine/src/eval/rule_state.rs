//! Run-time state of one rule.

use super::{
    group_state::GroupState,
    group_table::GroupTable,
    suppression::AllowStatus,
    window::{state::TermSpec, value::Value},
};
use crate::{
    alert::rate_limit::AlertRateLimit,
    flow::{FlowRecord, phase::RecordPhase},
    network::Endpoints,
    rule::{Measure, compiled::CompiledRule},
    time::{Time, WallClockOffset},
};

/// Run-time state of one rule: compiled form, groups and counters.
#[derive(Debug)]
pub(crate) struct RuleState {
    pub(crate) compiled: CompiledRule,
    pub(crate) unlisted: GroupTable,
    pub(crate) listed: GroupTable,
    pub(super) missed: MissedRecords,
    pub(crate) rate_limit: AlertRateLimit,
}

/// Records that match the rule but were not counted, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MissedRecords {
    /// Records that were too late for every window.
    pub(super) late: u64,
    /// Records whose group found no room.
    pub(super) rejected: u64,
    /// Groups that were removed to make room.
    pub(super) evicted: u64,
}

impl RuleState {
    pub(super) fn new(compiled: CompiledRule) -> Self {
        let (unlisted, listed) = (GroupTable::default(), GroupTable::default());
        Self {
            compiled,
            unlisted,
            listed,
            missed: MissedRecords::default(),
            rate_limit: AlertRateLimit::default(),
        }
    }

    /// Returns the number of groups, those of allow-listed flows included.
    pub(super) fn groups(&self) -> u64 {
        (self.unlisted.len() + self.listed.len()) as u64
    }

    pub(crate) fn table(&self, allow_status: AllowStatus) -> &GroupTable {
        match allow_status {
            AllowStatus::Unlisted => &self.unlisted,
            AllowStatus::Listed => &self.listed,
        }
    }

    pub(crate) fn table_mut(&mut self, allow_status: AllowStatus) -> (&CompiledRule, &mut GroupTable) {
        let table = match allow_status {
            AllowStatus::Unlisted => &mut self.unlisted,
            AllowStatus::Listed => &mut self.listed,
        };
        (&self.compiled, table)
    }

    /// Returns the nonzero values of a group's terms at `now`, each with the number of its term. Ratios are
    /// omitted, as they mean little without their absolute number.
    pub(crate) fn term_values<'a>(
        &'a self,
        group: &'a GroupState,
        now: Time,
    ) -> impl Iterator<Item = (usize, Value)> + 'a {
        let windows = group.all_windows(&self.compiled);
        let is_absolute = |term_spec: &TermSpec| !matches!(term_spec.measure, Measure::Ratio { .. });
        let terms = self
            .compiled
            .term_specs()
            .iter()
            .enumerate()
            .filter(move |(_, term_spec)| is_absolute(term_spec));
        let values = terms.map(move |(term, _)| (term, self.compiled.value(&windows, term, now)));
        values.filter(|(_, value)| value.number() > 0)
    }

    /// Returns true if the rule matches the flow of `record`, without a test of its endpoints.
    pub(super) fn matches_flow(
        &self,
        record: &FlowRecord,
        phase: RecordPhase,
        clock_offset: WallClockOffset,
    ) -> bool {
        let matching = &self.compiled.rule.matching;
        (phase != RecordPhase::Live || self.compiled.live)
            && matching.can_evaluate(phase)
            && record.fields.contains(matching.required_fields())
            && matching.check_flow(&record.flow, record.app, clock_offset).is_ok()
    }

    /// Returns the allow-list status of a flow between these endpoints.
    pub(super) fn allow_status(
        &self,
        endpoints: &Endpoints<'_>,
        time: Time,
        clock_offset: WallClockOffset,
    ) -> AllowStatus {
        if self.compiled.allowed(endpoints, time, clock_offset).is_some() {
            AllowStatus::Listed
        } else {
            AllowStatus::Unlisted
        }
    }
}
