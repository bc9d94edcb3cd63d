//! How much the rules hold, and what they could not take.

use std::sync::Arc;

use super::{
    super::{evidence, lane},
    Evaluator, Known,
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
}

/// What one rule holds, and what it could not take since it has been in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCounts {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Subjects of which it remembers something.
    pub subjects: u64,
    /// Records that it counts but that came too late to be judged.
    pub late: u64,
    /// Records that it counts, of subjects for which there was no room.
    pub refused: u64,
}

impl RuleCounts {
    /// Most subjects of a rule; of flows on an allow-list as many again.
    pub const MOST_SUBJECTS: usize = lane::MOST;
    /// Most records kept as evidence, of all rules together.
    pub const MOST_EVIDENCE: usize = evidence::KEPT;
}

impl Evaluator {
    /// How much is held.
    pub(in super::super) fn stats(&self) -> RuleStats {
        let suppressed = self.deadlines.iter().filter(|(_, _, known, _)| *known == Known::Allowed);
        let mut stats = RuleStats {
            firing: self.deadlines.len() as u64,
            suppressed: suppressed.count() as u64,
            evidence: self.evidence.len() as u64,
            evidence_dropped: self.evidence.dropped(),
            ..RuleStats::default()
        };
        for watch in &self.watches {
            stats.sources += watch.subjects();
            stats.late += watch.missed.late;
            stats.refused += watch.missed.refused;
        }
        stats
    }

    /// The same rule by rule.
    pub(in super::super) fn counts(&self) -> Vec<RuleCounts> {
        let counts = |watch: &super::Watch| RuleCounts {
            rule: Arc::clone(&watch.plan.rule.name),
            subjects: watch.subjects(),
            late: watch.missed.late,
            refused: watch.missed.refused,
        };
        self.watches.iter().map(counts).collect()
    }
}
