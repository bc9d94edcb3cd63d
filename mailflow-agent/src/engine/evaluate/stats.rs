//! How much the rules hold, and what they could not take.

use super::{super::lane::Known, Evaluator};

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

impl Evaluator {
    /// How much is held.
    pub(in super::super) fn stats(&self) -> RuleStats {
        let firing = self.deadlines.len() as u64;
        let suppressed = self.deadlines.iter().filter(|(_, _, known, _)| *known == Known::Allowed);
        let suppressed = suppressed.count() as u64;
        let mut stats = RuleStats {
            firing,
            suppressed,
            late: self.late,
            evidence: self.evidence.len() as u64,
            evidence_dropped: self.evidence.dropped(),
            ..RuleStats::default()
        };
        for lane in self.watches.iter().flat_map(|watch| [&watch.unknown, &watch.allowed]) {
            stats.sources += lane.len() as u64;
            stats.refused += lane.refused();
        }
        stats
    }
}
