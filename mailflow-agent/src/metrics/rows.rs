//! Counters of each service and each source, and their metric families.

use std::sync::Arc;

use super::text::MetricFamily;
use mailflow_engine::event::{CounterDelta, Delta};

/// Counters of a service or a source since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CounterRow {
    pub(crate) up: CounterDelta,
    pub(crate) down: CounterDelta,
    pub(crate) flows: u64,
    pub(crate) messages: u64,
    /// Qualifying flows by index of the rule. Trailing zeros are omitted.
    pub(crate) qualified: Vec<u64>,
}

impl CounterRow {
    /// Adds the delta of a flow.
    pub(crate) fn add(&mut self, delta: &Delta) {
        for (sum, gain) in [(&mut self.up, delta.up), (&mut self.down, delta.down)] {
            sum.packets += gain.packets;
            sum.bytes += gain.bytes;
        }
        self.flows += u64::from(delta.new_flow);
        self.messages += delta.messages;
    }

    /// Adds a flow that the rule with this index counted.
    pub(crate) fn qualify(&mut self, rule: usize) {
        if self.qualified.len() <= rule {
            self.qualified.resize(rule + 1, 0);
        }
        self.qualified[rule] += 1;
    }

    /// Adds the counters of another row.
    pub(crate) fn merge(&mut self, other: &CounterRow) {
        for (sum, addend) in [(&mut self.up, other.up), (&mut self.down, other.down)] {
            sum.packets += addend.packets;
            sum.bytes += addend.bytes;
        }
        self.flows += other.flows;
        self.messages += other.messages;
        if self.qualified.len() < other.qualified.len() {
            self.qualified.resize(other.qualified.len(), 0);
        }
        for (sum, addend) in self.qualified.iter_mut().zip(&other.qualified) {
            *sum += addend;
        }
    }
}

/// Families of services or of sources, which differ in one label.
pub(crate) struct RowFamilies {
    pub(crate) label: &'static str,
    pub(crate) packets: MetricFamily,
    pub(crate) bytes: MetricFamily,
    pub(crate) flows: MetricFamily,
    pub(crate) messages: MetricFamily,
    pub(crate) matched_flows: MetricFamily,
}

/// Families by service.
pub(crate) const SERVICES: RowFamilies = RowFamilies {
    label: "service",
    packets: MetricFamily::counter(
        "mailflow_packets_total",
        "Number of packets on the wire, by service and direction.",
    ),
    bytes: MetricFamily::counter(
        "mailflow_bytes_total",
        "Number of IP bytes (layer 3), by service and direction.",
    ),
    flows: MetricFamily::counter("mailflow_flows_total", "Number of new flows, by service."),
    messages: MetricFamily::counter(
        "mailflow_messages_estimated_total",
        "Estimated number of messages that servers have accepted, by service.",
    ),
    matched_flows: MetricFamily::counter(
        "mailflow_rule_matched_flows_total",
        "Number of flows that a rule counted, by rule and service.",
    ),
};

/// Families by source.
pub(crate) const SOURCES: RowFamilies = RowFamilies {
    label: "source",
    packets: MetricFamily::counter(
        "mailflow_source_packets_total",
        "Number of packets on the wire, by source and direction.",
    ),
    bytes: MetricFamily::counter(
        "mailflow_source_bytes_total",
        "Number of IP bytes (layer 3), by source and direction.",
    ),
    flows: MetricFamily::counter("mailflow_source_flows_total", "Number of new flows, by source."),
    messages: MetricFamily::counter(
        "mailflow_source_messages_estimated_total",
        "Estimated number of messages that servers have accepted, by source.",
    ),
    matched_flows: MetricFamily::counter(
        "mailflow_source_matched_flows_total",
        "Number of flows that a rule counted, by rule and source.",
    ),
};

impl RowFamilies {
    /// Writes the families. A row has all series from its start, zeros included, so that `increase()` sees
    /// the first increase.
    pub(crate) fn render<'a, R>(&self, out: &mut String, rules: &[Arc<str>], rows: R)
    where
        R: Iterator<Item = (&'a str, &'a CounterRow)> + Clone,
    {
        self.directions(out, &self.packets, rows.clone(), |gain| gain.packets);
        self.directions(out, &self.bytes, rows.clone(), |gain| gain.bytes);
        for (family, value) in
            [(&self.flows, (|row| row.flows) as fn(&CounterRow) -> u64), (&self.messages, |row| row.messages)]
        {
            family.head(out);
            for (name, row) in rows.clone() {
                family.sample(out, &[(self.label, name)], value(row));
            }
        }
        self.matched_flows.head(out);
        for (name, row) in rows {
            for (index, rule) in rules.iter().enumerate() {
                let count = row.qualified.get(index).copied().unwrap_or(0);
                self.matched_flows.sample(out, &[("rule", rule), (self.label, name)], count);
            }
        }
    }

    /// Writes a family with one sample for each row and direction.
    fn directions<'a, R>(
        &self,
        out: &mut String,
        family: &MetricFamily,
        rows: R,
        value: fn(CounterDelta) -> u64,
    ) where
        R: Iterator<Item = (&'a str, &'a CounterRow)>,
    {
        family.head(out);
        for (name, row) in rows {
            for (direction, gain) in [("up", row.up), ("down", row.down)] {
                family.sample(out, &[(self.label, name), ("direction", direction)], value(gain));
            }
        }
    }
}
