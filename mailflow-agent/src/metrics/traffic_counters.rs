//! Counters fed by the effects of the engine.

use std::{sync::Arc, time::Duration};

use mailflow_common::FlowKey;

use super::{
    alerts::AlertCounts,
    rows::{CounterRow, SERVICES, SOURCES},
    sources::SourceRows,
    text::MetricFamily,
    windows,
};
use mailflow_engine::{
    event::{Alert, CounterDelta, Effects, Source},
    flow::{Flow, RecordReason},
    query::window_scan::WindowReport,
    settings::{Service, Services},
    time::Time,
};

const FLOW_RECORDS: MetricFamily =
    MetricFamily::counter("mailflow_flow_records_total", "Number of flow records, by reason.");
const ONE_SIDED_FLOWS: MetricFamily = MetricFamily::counter(
    "mailflow_one_way_flows_total",
    "Number of ended flows of which only one direction crossed this gateway, by that direction.",
);
const SUPPRESSED_FLOWS: MetricFamily = MetricFamily::counter(
    "mailflow_suppressed_flows_total",
    "Number of flows that match a rule and are suppressed by an allow-list, by rule.",
);
const SOURCE_COUNT: MetricFamily =
    MetricFamily::gauge("mailflow_sources", "Number of sources with series of their own.");
const SOURCE_LIMIT: MetricFamily =
    MetricFamily::gauge("mailflow_sources_limit", "Largest number of sources with series of their own.");

/// Label of ports without a service, or whose service was removed.
const OTHER_SERVICE: &str = "other";

/// Limits on the number of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesLimits {
    /// Largest number of sources with series of their own. Others share `source="other"`.
    pub sources: usize,
    /// Time without traffic after which a source is added to `source="retired"`.
    pub idle: Duration,
}

impl Default for SeriesLimits {
    fn default() -> Self {
        Self { sources: 2_000, idle: Duration::from_secs(24 * 3_600) }
    }
}

/// Context that determines the labels of a flow: its service and its source.
#[derive(Clone, Copy, Debug)]
pub struct LabelContext<'a> {
    /// Watched ports.
    pub services: &'a Services,
    /// Prefix length of IPv6 sources.
    pub v6_source_prefix: u8,
}

impl LabelContext<'_> {
    /// Returns the index of the service's row.
    fn service(&self, key: &FlowKey) -> usize {
        self.services.get(&key.server_port).map_or(Service::ALL.len(), |service| *service as usize)
    }

    /// Returns the source of a flow.
    fn source(&self, key: &FlowKey) -> Source {
        Source::of(key.client.ip(), self.v6_source_prefix)
    }
}

/// Counters by service and by source, matched flows, records and alerts.
#[derive(Clone, Debug)]
pub struct TrafficCounters {
    limits: SeriesLimits,
    rules: Vec<Arc<str>>,
    /// Counters by service, in the order of [`Service::ALL`]. The last one has no service.
    services: [CounterRow; Service::ALL.len() + 1],
    sources: SourceRows,
    /// Counts in the order of [`RecordReason::ALL`].
    records: [u64; RecordReason::ALL.len()],
    one_sided: [u64; 2],
    /// Flows that match a rule and are on an allow-list, by rule.
    suppressed: Vec<u64>,
    alerts: AlertCounts,
}

impl TrafficCounters {
    /// Creates empty counters. The series of `rules` exist from the start, others from their first value.
    pub fn new(limits: SeriesLimits, rules: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self {
            limits,
            rules: rules.into_iter().collect(),
            services: Default::default(),
            sources: SourceRows::new(limits.sources, limits.idle),
            records: [0; RecordReason::ALL.len()],
            one_sided: [0; 2],
            suppressed: Vec::new(),
            alerts: AlertCounts::default(),
        }
    }

    /// Adds the effects of one call of the engine. `now` determines idle sources and must not decrease.
    pub fn observe(&mut self, effects: &Effects, labels: LabelContext<'_>, now: Time) {
        // Consecutive flows mostly have the same port.
        let mut previous = None;
        for delta in &effects.deltas {
            let port = delta.key.server_port;
            let service = match previous {
                Some((previous, service)) if previous == port => service,
                _ => labels.service(&delta.key),
            };
            previous = Some((port, service));
            self.services[service].add(delta);
            self.sources.row(labels.source(&delta.key), now).add(delta);
        }
        // Suppressed flows have their own counter.
        for qualified in effects.matched_flows.iter().filter(|qualified| qualified.suppressed) {
            let rule = self.rule(&qualified.rule);
            if self.suppressed.len() <= rule {
                self.suppressed.resize(rule + 1, 0);
            }
            self.suppressed[rule] += 1;
        }
        for qualified in effects.matched_flows.iter().filter(|qualified| !qualified.suppressed) {
            let rule = self.rule(&qualified.rule);
            self.services[labels.service(&qualified.key)].qualify(rule);
            self.sources.row(labels.source(&qualified.key), now).qualify(rule);
        }
        for record in &effects.records {
            self.records[record.reason as usize] += 1;
            if record.reason != RecordReason::Active
                && let Some(direction) = one_sided(&record.flow)
            {
                self.one_sided[direction as usize] += 1;
            }
        }
        for alert in &effects.alerts {
            let rule = self.rule(&alert.rule);
            self.alerts.add(rule, alert);
        }
        self.sources.fold_idle(now);
    }

    /// Returns the totals since the process started: client to server, server to client.
    pub fn totals(&self) -> (CounterDelta, CounterDelta) {
        let mut sum = CounterRow::default();
        self.services.iter().for_each(|row| sum.merge(row));
        (sum.up, sum.down)
    }

    /// Returns the counters of each source, and of `other` and `retired`, in the order of the page.
    pub fn sources(&self) -> Vec<SourceTotals<'_>> {
        let source_totals = |(source, row): (_, &CounterRow)| {
            let CounterRow { up, down, flows, messages, ref qualified } = *row;
            SourceTotals { source, up, down, flows, messages, matched_flows: qualified.iter().sum() }
        };
        self.sources.rows().into_iter().map(source_totals).collect()
    }

    /// Returns the number of sources with series of their own.
    pub fn source_count(&self) -> usize {
        self.sources.len()
    }

    /// Writes the families. `windows` contains the current window values, `firing` the firing alerts.
    pub fn render(&self, windows: &WindowReport, firing: &[Arc<Alert>], out: &mut String) {
        let names = Service::ALL.iter().map(|service| service.name()).chain([OTHER_SERVICE]);
        SERVICES.render(out, &self.rules, names.zip(&self.services));
        SOURCES.render(out, &self.rules, self.sources.rows().iter().copied());
        SOURCE_COUNT.single(out, self.sources.len());
        SOURCE_LIMIT.single(out, self.limits.sources);
        windows::render(out, windows);
        FLOW_RECORDS.head(out);
        for (reason, count) in RecordReason::ALL.iter().zip(self.records) {
            FLOW_RECORDS.sample(out, &[("reason", reason.name())], count);
        }
        ONE_SIDED_FLOWS.head(out);
        for (direction, count) in ["up", "down"].iter().zip(self.one_sided) {
            ONE_SIDED_FLOWS.sample(out, &[("direction", direction)], count);
        }
        SUPPRESSED_FLOWS.head(out);
        for (index, rule) in self.rules.iter().enumerate() {
            let count = self.suppressed.get(index).copied().unwrap_or_default();
            SUPPRESSED_FLOWS.sample(out, &[("rule", rule)], count);
        }
        self.alerts.render(out, &self.rules, firing);
    }

    /// Returns the index of a rule, and adds an unknown one.
    fn rule(&mut self, name: &Arc<str>) -> usize {
        self.rules.iter().position(|rule| rule == name).unwrap_or_else(|| {
            self.rules.push(Arc::clone(name));
            self.rules.len() - 1
        })
    }
}

/// Counters of a source since the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceTotals<'a> {
    /// Label of the source.
    pub source: &'a str,
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
    /// Number of new flows.
    pub flows: u64,
    /// Number of estimated messages.
    pub messages: u64,
    /// Number of flows that rules counted, summed over the rules.
    pub matched_flows: u64,
}

/// Direction of a one-sided flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SeenDirection {
    Up = 0,
    Down = 1,
}

/// Returns the only direction of a flow if its packets of the other direction must take another path. An
/// unanswered SYN is not such a flow.
fn one_sided(flow: &Flow) -> Option<SeenDirection> {
    match (flow.up.packets, flow.down.packets) {
        (0, 1..) => Some(SeenDirection::Down),
        (1.., 0) if flow.up.data_packets > 0 || flow.facts.syn == 0 => Some(SeenDirection::Up),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_values_equal_their_index() {
        for (index, service) in Service::ALL.into_iter().enumerate() {
            assert_eq!(service as usize, index, "{service:?}");
        }
        for (index, reason) in RecordReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
        }
    }
}
