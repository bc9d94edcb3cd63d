//! Occupancy of the engine, and what exceeded its limits.

use super::text::MetricFamily;
use mailflow_engine::{RuleCounts, Stats, overview::Threshold};

const OPEN_FLOWS: MetricFamily =
    MetricFamily::gauge("mailflow_open_flows", "Flows the agent knows that have not ended.");
const VANISHED_FLOWS: MetricFamily = MetricFamily::counter(
    "mailflow_vanished_flows_total",
    "Flows that left the kernel's table unasked; their packets are counted, but they have no last record.",
);
const SUBJECTS: MetricFamily =
    MetricFamily::gauge("mailflow_rule_subjects", "Subjects of which a rule remembers something, by rule.");
const SUBJECTS_LIMIT: MetricFamily = MetricFamily::gauge(
    "mailflow_rule_subjects_limit",
    "Most subjects of a rule, of flows on an allow-list as many again.",
);
const LATE_RECORDS: MetricFamily = MetricFamily::counter(
    "mailflow_rule_late_records_total",
    "Records that a rule counts but that came too late to be judged, by rule.",
);
const REFUSED_RECORDS: MetricFamily = MetricFamily::counter(
    "mailflow_rule_refused_records_total",
    "Records that a rule counts of subjects for which there was no room, by rule.",
);
const MEMORY_BYTES: MetricFamily = MetricFamily::gauge(
    "mailflow_rule_memory_bytes",
    "Memory of what a rule remembers of its subjects, by rule.",
);
const MEMORY_LIMIT_BYTES: MetricFamily = MetricFamily::gauge(
    "mailflow_rule_memory_limit_bytes",
    "Most memory of what a rule remembers, of flows on an allow-list as much again.",
);
const EVICTED_SUBJECTS: MetricFamily = MetricFamily::counter(
    "mailflow_rule_evicted_subjects_total",
    "Subjects that a rule forgot to make room for others, by rule.",
);
const GROUPED_ALERTS: MetricFamily = MetricFamily::counter(
    "mailflow_rule_grouped_alerts_total",
    "Alerts of a rule beyond its limit, which one alert about many subjects tells of, by rule.",
);
const HALF_OPEN_SOURCES: MetricFamily = MetricFamily::counter(
    "mailflow_half_open_sources_total",
    "Sources that were new to a rule and had completed no handshake.",
);
const SOURCE_FLOOD: MetricFamily = MetricFamily::gauge(
    "mailflow_source_flood",
    "1 while new sources that complete no handshake are so many that their addresses must be spoofed, else 0.",
);
const RULE_THRESHOLD: MetricFamily = MetricFamily::gauge(
    "mailflow_rule_threshold",
    "From which value on a condition of a rule holds, for whom no other threshold is named, in the unit of \
     mailflow_window_value; a ratio has none.",
);
const EVIDENCE_RECORDS: MetricFamily =
    MetricFamily::gauge("mailflow_evidence_records", "Records kept to be shown with alerts, the newest.");
const EVIDENCE_RECORDS_LIMIT: MetricFamily =
    MetricFamily::gauge("mailflow_evidence_records_limit", "Most records kept to be shown with alerts.");
const EVIDENCE_DROPPED_RECORDS: MetricFamily = MetricFamily::counter(
    "mailflow_evidence_dropped_total",
    "Records kept to be shown with alerts that made way for newer ones.",
);

/// Occupancy of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Totals.
    pub stats: Stats,
    /// Counts of each rule.
    pub rules: Vec<RuleCounts>,
    /// Thresholds in force.
    pub thresholds: Vec<Threshold>,
}

impl EngineStats {
    pub(crate) fn render(&self, out: &mut String) {
        let stats = &self.stats;
        OPEN_FLOWS.single(out, stats.open_flows);
        VANISHED_FLOWS.single(out, stats.vanished_flows);
        self.by_rule(&SUBJECTS, |rule| rule.subjects, out);
        self.by_rule(&LATE_RECORDS, |rule| rule.late, out);
        self.by_rule(&REFUSED_RECORDS, |rule| rule.refused, out);
        self.by_rule(&EVICTED_SUBJECTS, |rule| rule.evicted, out);
        self.by_rule(&MEMORY_BYTES, |rule| rule.memory, out);
        self.by_rule(&GROUPED_ALERTS, |rule| rule.grouped, out);
        SUBJECTS_LIMIT.single(out, stats.rules.limits.subjects as u64);
        MEMORY_LIMIT_BYTES.single(out, stats.rules.limits.memory as u64);
        HALF_OPEN_SOURCES.single(out, stats.rules.half_open_sources);
        SOURCE_FLOOD.single(out, u64::from(stats.rules.flood));
        RULE_THRESHOLD.head(out);
        for Threshold { rule, term, at_least, scale } in &self.thresholds {
            RULE_THRESHOLD.sample(
                out,
                &[("rule", rule), ("condition", term)],
                *at_least as f64 / *scale as f64,
            );
        }
        EVIDENCE_RECORDS.single(out, stats.rules.evidence);
        EVIDENCE_RECORDS_LIMIT.single(out, RuleCounts::MOST_EVIDENCE);
        EVIDENCE_DROPPED_RECORDS.single(out, stats.rules.evidence_dropped);
    }

    fn by_rule(&self, family: &MetricFamily, number: impl Fn(&RuleCounts) -> u64, out: &mut String) {
        family.head(out);
        for rule in &self.rules {
            family.sample(out, &[("rule", &rule.rule)], number(rule));
        }
    }
}
