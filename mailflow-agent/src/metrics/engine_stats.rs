//! Occupancy of the engine, and what exceeded its limits.

use super::text::MetricFamily;
use mailflow_engine::{RuleCounts, Stats, query::window_scan::TermThreshold};

const OPEN_FLOWS: MetricFamily = MetricFamily::gauge("mailflow_open_flows", "Number of open flows.");
const VANISHED_FLOWS: MetricFamily = MetricFamily::counter(
    "mailflow_lost_flows_total",
    "Number of flows that the agent did not evict but that are missing in the flow table. Their packets are \
     counted, but they have no final record.",
);
const SUBJECTS: MetricFamily =
    MetricFamily::gauge("mailflow_rule_subjects", "Number of groups with state, by rule.");
const SUBJECTS_LIMIT: MetricFamily = MetricFamily::gauge(
    "mailflow_rule_subjects_limit",
    "Largest number of groups of a rule. Flows on an allow-list have a separate table of this size.",
);
const LATE_RECORDS: MetricFamily = MetricFamily::counter(
    "mailflow_rule_late_records_total",
    "Number of matching records that arrived too late to be evaluated, by rule.",
);
const REFUSED_RECORDS: MetricFamily = MetricFamily::counter(
    "mailflow_rule_rejected_records_total",
    "Number of matching records of groups that exceed the limit, by rule.",
);
const MEMORY_BYTES: MetricFamily =
    MetricFamily::gauge("mailflow_rule_memory_bytes", "Memory of the groups, by rule.");
const MEMORY_LIMIT_BYTES: MetricFamily = MetricFamily::gauge(
    "mailflow_rule_memory_limit_bytes",
    "Largest memory of the groups of a rule. Flows on an allow-list have a separate table of this size.",
);
const EVICTED_SUBJECTS: MetricFamily = MetricFamily::counter(
    "mailflow_rule_evicted_subjects_total",
    "Number of groups evicted in favour of others, by rule.",
);
const GROUPED_ALERTS: MetricFamily = MetricFamily::counter(
    "mailflow_rule_grouped_alerts_total",
    "Number of alerts beyond the rate limit, which one alert about many groups replaces, by rule.",
);
const HALF_OPEN_SOURCES: MetricFamily = MetricFamily::counter(
    "mailflow_half_open_sources_total",
    "Number of sources that were new to a rule and had completed no handshake.",
);
const SOURCE_FLOOD: MetricFamily = MetricFamily::gauge(
    "mailflow_source_flood",
    "1 while a flood of new sources without a handshake indicates spoofed addresses, else 0.",
);
const RULE_THRESHOLD: MetricFamily = MetricFamily::gauge(
    "mailflow_rule_threshold",
    "Default threshold of a term, in the unit of mailflow_window_value. A ratio has no unit.",
);
const EVIDENCE_RECORDS: MetricFamily =
    MetricFamily::gauge("mailflow_evidence_records", "Number of evidence records, which alerts show.");
const EVIDENCE_RECORDS_LIMIT: MetricFamily =
    MetricFamily::gauge("mailflow_evidence_records_limit", "Largest number of evidence records.");
const EVIDENCE_DROPPED_RECORDS: MetricFamily = MetricFamily::counter(
    "mailflow_evidence_records_dropped_total",
    "Number of evidence records replaced by newer ones.",
);

/// Occupancy of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Totals.
    pub stats: Stats,
    /// Counts of each rule.
    pub rules: Vec<RuleCounts>,
    /// Thresholds in force.
    pub thresholds: Vec<TermThreshold>,
}

impl EngineStats {
    /// Writes the families.
    pub(crate) fn render(&self, out: &mut String) {
        let stats = &self.stats;
        OPEN_FLOWS.single(out, stats.open_flows);
        VANISHED_FLOWS.single(out, stats.vanished_flows);
        self.by_rule(&SUBJECTS, |rule| rule.groups, out);
        self.by_rule(&LATE_RECORDS, |rule| rule.late, out);
        self.by_rule(&REFUSED_RECORDS, |rule| rule.refused, out);
        self.by_rule(&EVICTED_SUBJECTS, |rule| rule.evicted, out);
        self.by_rule(&MEMORY_BYTES, |rule| rule.memory, out);
        self.by_rule(&GROUPED_ALERTS, |rule| rule.aggregated_alerts, out);
        SUBJECTS_LIMIT.single(out, stats.rules.limits.groups as u64);
        MEMORY_LIMIT_BYTES.single(out, stats.rules.limits.memory as u64);
        HALF_OPEN_SOURCES.single(out, stats.rules.half_open_sources);
        SOURCE_FLOOD.single(out, u64::from(stats.rules.flood));
        RULE_THRESHOLD.head(out);
        for TermThreshold { rule, term, at_least, scale } in &self.thresholds {
            RULE_THRESHOLD.sample(
                out,
                &[("rule", rule), ("condition", term)],
                *at_least as f64 / *scale as f64,
            );
        }
        EVIDENCE_RECORDS.single(out, stats.rules.evidence);
        EVIDENCE_RECORDS_LIMIT.single(out, RuleCounts::MAX_EVIDENCE_RECORDS);
        EVIDENCE_DROPPED_RECORDS.single(out, stats.rules.evidence_dropped);
    }

    /// Writes a family with one sample for each rule.
    fn by_rule(&self, family: &MetricFamily, number: impl Fn(&RuleCounts) -> u64, out: &mut String) {
        family.head(out);
        for rule in &self.rules {
            family.sample(out, &[("rule", &rule.rule)], number(rule));
        }
    }
}
