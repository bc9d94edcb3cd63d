//! What the engine remembers, and what it could not take.

use super::text::Family;
use mailflow_engine::{RuleCounts, Stats, query::window_scan::TermThreshold};

const OPEN: Family = Family::gauge("mailflow_open_flows", "Flows the agent knows that have not ended.");
const VANISHED: Family = Family::counter(
    "mailflow_vanished_flows_total",
    "Flows that left the kernel's table unasked; their packets are counted, but they have no last record.",
);
const SUBJECTS: Family =
    Family::gauge("mailflow_rule_subjects", "Subjects of which a rule remembers something, by rule.");
const SUBJECTS_LIMIT: Family = Family::gauge(
    "mailflow_rule_subjects_limit",
    "Most subjects of a rule, of flows on an allow-list as many again.",
);
const LATE: Family = Family::counter(
    "mailflow_rule_late_records_total",
    "Records that a rule counts but that came too late to be judged, by rule.",
);
const REFUSED: Family = Family::counter(
    "mailflow_rule_refused_records_total",
    "Records that a rule counts of subjects for which there was no room, by rule.",
);
const MEMORY: Family =
    Family::gauge("mailflow_rule_memory_bytes", "Memory of what a rule remembers of its subjects, by rule.");
const MEMORY_LIMIT: Family = Family::gauge(
    "mailflow_rule_memory_limit_bytes",
    "Most memory of what a rule remembers, of flows on an allow-list as much again.",
);
const EVICTED: Family = Family::counter(
    "mailflow_rule_evicted_subjects_total",
    "Subjects that a rule forgot to make room for others, by rule.",
);
const GROUPED: Family = Family::counter(
    "mailflow_rule_grouped_alerts_total",
    "Alerts of a rule beyond its limit, which one alert about many subjects tells of, by rule.",
);
const HALF_OPEN: Family = Family::counter(
    "mailflow_half_open_sources_total",
    "Sources that were new to a rule and had completed no handshake.",
);
const FLOOD: Family = Family::gauge(
    "mailflow_source_flood",
    "1 while new sources that complete no handshake are so many that their addresses must be spoofed, else 0.",
);
const THRESHOLD: Family = Family::gauge(
    "mailflow_rule_threshold",
    "From which value on a condition of a rule holds, for whom no other threshold is named, in the unit of \
     mailflow_window_value; a ratio has none.",
);
const EVIDENCE: Family =
    Family::gauge("mailflow_evidence_records", "Records kept to be shown with alerts, the newest.");
const EVIDENCE_LIMIT: Family =
    Family::gauge("mailflow_evidence_records_limit", "Most records kept to be shown with alerts.");
const EVIDENCE_DROPPED: Family = Family::counter(
    "mailflow_evidence_dropped_total",
    "Records kept to be shown with alerts that made way for newer ones.",
);

/// What the engine remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it together.
    pub stats: Stats,
    /// By rule.
    pub rules: Vec<RuleCounts>,
    /// The thresholds in force.
    pub thresholds: Vec<TermThreshold>,
}

impl Memory {
    pub(crate) fn render(&self, out: &mut String) {
        let stats = &self.stats;
        OPEN.single(out, stats.open_flows);
        VANISHED.single(out, stats.vanished_flows);
        self.by_rule(&SUBJECTS, |rule| rule.groups, out);
        self.by_rule(&LATE, |rule| rule.late, out);
        self.by_rule(&REFUSED, |rule| rule.refused, out);
        self.by_rule(&EVICTED, |rule| rule.evicted, out);
        self.by_rule(&MEMORY, |rule| rule.memory, out);
        self.by_rule(&GROUPED, |rule| rule.aggregated_alerts, out);
        SUBJECTS_LIMIT.single(out, stats.rules.limits.groups as u64);
        MEMORY_LIMIT.single(out, stats.rules.limits.memory as u64);
        HALF_OPEN.single(out, stats.rules.half_open_sources);
        FLOOD.single(out, u64::from(stats.rules.flood));
        THRESHOLD.head(out);
        for TermThreshold { rule, term, at_least, scale } in &self.thresholds {
            THRESHOLD.sample(out, &[("rule", rule), ("condition", term)], *at_least as f64 / *scale as f64);
        }
        EVIDENCE.single(out, stats.rules.evidence);
        EVIDENCE_LIMIT.single(out, RuleCounts::MAX_EVIDENCE_RECORDS);
        EVIDENCE_DROPPED.single(out, stats.rules.evidence_dropped);
    }

    fn by_rule(&self, family: &Family, number: impl Fn(&RuleCounts) -> u64, out: &mut String) {
        family.head(out);
        for rule in &self.rules {
            family.sample(out, &[("rule", &rule.rule)], number(rule));
        }
    }
}
