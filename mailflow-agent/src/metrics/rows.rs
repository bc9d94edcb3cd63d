//! The numbers kept for each service and for each source, and the families they are shown in.

use std::sync::Arc;

use super::text::Family;
use mailflow_engine::event::{CounterDelta, Delta};

/// What a service or a source has had since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) up: CounterDelta,
    pub(crate) down: CounterDelta,
    pub(crate) flows: u64,
    pub(crate) messages: u64,
    /// Qualifying flows by index of the rule; shorter than the list of rules while they are zero.
    pub(crate) qualified: Vec<u64>,
}

impl Row {
    /// Books the gain of a flow.
    pub(crate) fn add(&mut self, delta: &Delta) {
        for (mine, gain) in [(&mut self.up, delta.up), (&mut self.down, delta.down)] {
            mine.packets += gain.packets;
            mine.bytes += gain.bytes;
        }
        self.flows += u64::from(delta.new_flow);
        self.messages += delta.messages;
    }

    /// Books a flow that the rule of this index counted.
    pub(crate) fn qualify(&mut self, rule: usize) {
        if self.qualified.len() <= rule {
            self.qualified.resize(rule + 1, 0);
        }
        self.qualified[rule] += 1;
    }

    /// Takes over another row's numbers.
    pub(crate) fn merge(&mut self, other: &Row) {
        for (mine, theirs) in [(&mut self.up, other.up), (&mut self.down, other.down)] {
            mine.packets += theirs.packets;
            mine.bytes += theirs.bytes;
        }
        self.flows += other.flows;
        self.messages += other.messages;
        if self.qualified.len() < other.qualified.len() {
            self.qualified.resize(other.qualified.len(), 0);
        }
        for (mine, theirs) in self.qualified.iter_mut().zip(&other.qualified) {
            *mine += theirs;
        }
    }
}

/// The families of one kind of rows, told apart by one label.
pub(crate) struct Families {
    pub(crate) label: &'static str,
    pub(crate) packets: Family,
    pub(crate) bytes: Family,
    pub(crate) flows: Family,
    pub(crate) messages: Family,
    pub(crate) qualifying: Family,
}

/// By service.
pub(crate) const SERVICES: Families = Families {
    label: "service",
    packets: Family::counter("mailflow_packets_total", "Packets on the wire, by service and direction."),
    bytes: Family::counter("mailflow_bytes_total", "IP bytes (layer 3), by service and direction."),
    flows: Family::counter("mailflow_flows_total", "Flows begun, by service."),
    messages: Family::counter(
        "mailflow_messages_estimated_total",
        "Messages that servers seem to have accepted, by service.",
    ),
    qualifying: Family::counter(
        "mailflow_qualifying_flows_total",
        "Flows that a rule counted, by rule and service.",
    ),
};

/// By source.
pub(crate) const SOURCES: Families = Families {
    label: "source",
    packets: Family::counter(
        "mailflow_source_packets_total",
        "Packets on the wire, by source and direction.",
    ),
    bytes: Family::counter("mailflow_source_bytes_total", "IP bytes (layer 3), by source and direction."),
    flows: Family::counter("mailflow_source_flows_total", "Flows begun, by source."),
    messages: Family::counter(
        "mailflow_source_messages_estimated_total",
        "Messages that servers seem to have accepted, by source.",
    ),
    qualifying: Family::counter(
        "mailflow_source_qualifying_flows_total",
        "Flows that a rule counted, by rule and source.",
    ),
};

impl Families {
    /// Writes all of them. A row has every series from its beginning on, the zeros too, so that the
    /// first increase is seen as one.
    pub(crate) fn render<'a, R>(&self, out: &mut String, rules: &[Arc<str>], rows: R)
    where
        R: Iterator<Item = (&'a str, &'a Row)> + Clone,
    {
        self.directions(out, &self.packets, rows.clone(), |gain| gain.packets);
        self.directions(out, &self.bytes, rows.clone(), |gain| gain.bytes);
        for (family, value) in
            [(&self.flows, (|row| row.flows) as fn(&Row) -> u64), (&self.messages, |row| row.messages)]
        {
            family.head(out);
            for (name, row) in rows.clone() {
                family.sample(out, &[(self.label, name)], value(row));
            }
        }
        self.qualifying.head(out);
        for (name, row) in rows {
            for (index, rule) in rules.iter().enumerate() {
                let count = row.qualified.get(index).copied().unwrap_or(0);
                self.qualifying.sample(out, &[("rule", rule), (self.label, name)], count);
            }
        }
    }

    fn directions<'a, R>(&self, out: &mut String, family: &Family, rows: R, value: fn(CounterDelta) -> u64)
    where
        R: Iterator<Item = (&'a str, &'a Row)>,
    {
        family.head(out);
        for (name, row) in rows {
            for (direction, gain) in [("up", row.up), ("down", row.down)] {
                family.sample(out, &[(self.label, name), ("direction", direction)], value(gain));
            }
        }
    }
}
