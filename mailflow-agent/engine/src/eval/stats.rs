//! Statistics of the rules.

use std::sync::Arc;

use super::{evaluator::Evaluator, rule_state::RuleState, suppression::AllowStatus};
use crate::{alert::evidence, rule::RuleLimits};

/// Statistics of all rules together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleStats {
    /// Groups, summed over the rules.
    pub sources: u64,
    /// Active incidents.
    pub firing: u64,
    /// Active incidents that an allow-list suppresses.
    pub suppressed: u64,
    /// Matching records that were too late for every window.
    pub late: u64,
    /// Matching records whose group found no room.
    pub refused: u64,
    /// Records stored as evidence.
    pub evidence: u64,
    /// Records that newer evidence overwrote.
    pub evidence_dropped: u64,
    /// True while a flood of spoofed sources is reported.
    pub flood: bool,
    /// New sources without a completed handshake, since the start.
    pub half_open_sources: u64,
    /// Limits in force.
    pub limits: RuleLimits,
}

/// Statistics of one rule, since it has been in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCounts {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Groups that the rule holds.
    pub groups: u64,
    /// Matching records that were too late for every window.
    pub late: u64,
    /// Matching records whose group found no room.
    pub refused: u64,
    /// Groups that were removed to make room.
    pub evicted: u64,
    /// Bytes of the groups.
    pub memory: u64,
    /// Alerts that an aggregate alert reported.
    pub aggregated_alerts: u64,
}

impl RuleCounts {
    /// Most records stored as evidence, for all rules together.
    pub const MAX_EVIDENCE_RECORDS: usize = evidence::MAX_RECORDS;
}

impl Evaluator {
    /// Returns the statistics of all rules together.
    pub(crate) fn stats(&self) -> RuleStats {
        let suppressed =
            self.deadlines.iter().filter(|(_, _, allow_status, _)| *allow_status == AllowStatus::Listed);
        let mut stats = RuleStats {
            firing: self.deadlines.len() as u64,
            suppressed: suppressed.count() as u64,
            evidence: self.evidence.len() as u64,
            evidence_dropped: self.evidence.overwritten(),
            flood: self.flood_detector.is_active(),
            half_open_sources: self.flood_detector.half_open_sources(),
            limits: self.limits,
            ..RuleStats::default()
        };
        for rule_state in &self.rule_states {
            stats.sources += rule_state.groups();
            stats.late += rule_state.missed.late;
            stats.refused += rule_state.missed.rejected;
        }
        stats
    }

    /// Returns the statistics of each rule.
    pub(crate) fn counts(&self) -> Vec<RuleCounts> {
        let counts = |rule_state: &RuleState| RuleCounts {
            rule: Arc::clone(&rule_state.compiled.rule.name),
            groups: rule_state.groups(),
            late: rule_state.missed.late,
            refused: rule_state.missed.rejected,
            evicted: rule_state.missed.evicted,
            memory: (rule_state.unlisted.memory() + rule_state.listed.memory()) as u64,
            aggregated_alerts: rule_state.rate_limit.aggregated(),
        };
        self.rule_states.iter().map(counts).collect()
    }
}
