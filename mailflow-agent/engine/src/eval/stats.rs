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
    pub subjects: u64,
    /// Records that it counts but that came too late to be judged.
    pub late: u64,
    /// Records that it counts, of subjects for which there was no room.
    pub refused: u64,
    /// Subjects that were forgotten to make room for others.
    pub evicted: u64,
    /// Bytes that what it remembers takes.
    pub memory: u64,
    /// Alerts that were told together with others.
    pub grouped: u64,
}

impl RuleCounts {
    /// Most records kept as evidence, of all rules together.
    pub const MOST_EVIDENCE: usize = evidence::MAX_RECORDS;
}

impl Evaluator {
    /// Returns the alerts that fire about many subjects together.
    pub(crate) fn together(&self) -> impl Iterator<Item = &Alert> {
        self.watches.iter().filter_map(|watch| watch.burst.fires()).chain(self.flood.fires())
    }

    /// How much is held.
    pub(crate) fn stats(&self) -> RuleStats {
        let suppressed = self.deadlines.iter().filter(|(_, _, known, _)| *known == AllowStatus::Allowed);
        let mut stats = RuleStats {
            firing: self.deadlines.len() as u64,
            suppressed: suppressed.count() as u64,
            evidence: self.evidence.len() as u64,
            evidence_dropped: self.evidence.dropped(),
            flood: self.flood.lasts(),
            half_open_sources: self.flood.seen(),
            limits: self.limits,
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
    pub(crate) fn counts(&self) -> Vec<RuleCounts> {
        let counts = |watch: &RuleState| RuleCounts {
            rule: Arc::clone(&watch.plan.rule.name),
            subjects: watch.subjects(),
            late: watch.missed.late,
            refused: watch.missed.refused,
            evicted: watch.missed.evicted,
            memory: (watch.unknown.memory() + watch.allowed.memory()) as u64,
            grouped: watch.burst.joined(),
        };
        self.watches.iter().map(counts).collect()
    }
}
