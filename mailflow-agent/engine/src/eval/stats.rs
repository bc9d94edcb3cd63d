//! How much the rules hold, and what they could not take.

use std::sync::Arc;

use super::{evaluator::Evaluator, group_table::AllowStatus, rule_state::RuleState};
use crate::{
    alert::{event::Alert, evidence},
    rule::RuleLimits,
};

/// How much the rules hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleStats {
    /// Subjects with a window, summed over the rules.
    pub sources: u64,
    /// Incidents that fire.
    pub firing: u64,
    /// Those of them that an allow-list suppresses.
    pub suppressed: u64,
    /// Records that counted but came too late to be judged.
    pub late: u64,
    /// Records that counted, of subjects for which there was no room.
    pub refused: u64,
    /// Records kept as evidence.
    pub evidence: u64,
    /// Records no longer kept, as others took their places.
    pub evidence_dropped: u64,
    /// True if sources that complete no handshake come in such numbers that they are named as a flood.
    pub flood: bool,
    /// Sources that were new and had completed no handshake, since the start.
    pub half_open_sources: u64,
    /// The bounds in force.
    pub limits: RuleLimits,
}

/// What one rule holds, and what it could not take since it has been in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCounts {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Subjects of which it remembers something.
    pub groups: u64,
    /// Records that it counts but that came too late to be judged.
    pub late: u64,
    /// Records that it counts, of subjects for which there was no room.
    pub refused: u64,
    /// Subjects that were forgotten to make room for others.
    pub evicted: u64,
    /// Bytes that what it remembers takes.
    pub memory: u64,
    /// Alerts that were told together with others.
    pub aggregated_alerts: u64,
}

impl RuleCounts {
    /// Most records kept as evidence, of all rules together.
    pub const MAX_EVIDENCE_RECORDS: usize = evidence::MAX_RECORDS;
}

impl Evaluator {
    /// Returns the alerts that fire about many subjects together.
    pub(crate) fn aggregate_alerts(&self) -> impl Iterator<Item = &Alert> {
        self.rule_states
            .iter()
            .filter_map(|rule_state| rule_state.rate_limit.active_alert())
            .chain(self.flood_detector.active_alert())
    }

    /// How much is held.
    pub(crate) fn stats(&self) -> RuleStats {
        let suppressed = self.deadlines.iter().filter(|(_, _, known, _)| *known == AllowStatus::Listed);
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

    /// The same rule by rule.
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
