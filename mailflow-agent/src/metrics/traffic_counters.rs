//! Everything the engine's effects add up to.

use std::{sync::Arc, time::Duration};

use mailflow_common::FlowKey;

use super::{
    alerts::Alerts,
    rows::{Row, SERVICES, SOURCES},
    sources::Sources,
    text::Family,
    windows,
};
use mailflow_engine::{
    event::{CounterDelta, Effects, Source},
    flow::{Flow, RecordReason},
    query::window_scan::WindowReport,
    settings::{Service, Services},
    time::Time,
};

const RECORDS: Family =
    Family::counter("mailflow_flow_records_total", "Flow records made, by the reason for them.");
const ONE_SIDED: Family = Family::counter(
    "mailflow_one_sided_flows_total",
    "Ended flows of which only one direction crossed this gateway, by that direction.",
);
const SUPPRESSED: Family = Family::counter(
    "mailflow_suppressed_flows_total",
    "Flows that a rule counted and an allow-list put aside.",
);
const TRACKED: Family = Family::gauge("mailflow_sources", "Sources that have series of their own.");
const LIMIT: Family =
    Family::gauge("mailflow_sources_limit", "Most sources that may have series of their own.");

/// The label of ports that belong to no service (any more).
const NO_SERVICE: &str = "other";

/// How many series there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most sources with series of their own; further ones share `source="other"`.
    pub sources: usize,
    /// A source without traffic for this long goes to `source="retired"`.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sources: 2_000, idle: Duration::from_secs(24 * 3_600) }
    }
}

/// What the engine needs told to place a flow: its service, and the source it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The watched ports.
    pub services: &'a Services,
    /// Prefix length by which IPv6 clients are grouped.
    pub v6_source_prefix: u8,
}

impl Places<'_> {
    fn service(&self, key: &FlowKey) -> usize {
        self.services.get(&key.server_port).map_or(Service::ALL.len(), |service| *service as usize)
    }

    fn source(&self, key: &FlowKey) -> Source {
        Source::of(key.client.ip(), self.v6_source_prefix)
    }
}

/// Totals by service and by source, qualifying flows, records and alerts.
#[derive(Clone, Debug)]
pub struct Ledger {
    limits: Limits,
    rules: Vec<Arc<str>>,
    /// By service, in the order of [`Service::ALL`]; the last is of no service.
    services: [Row; Service::ALL.len() + 1],
    sources: Sources,
    /// By the order of [`RecordReason::ALL`].
    records: [u64; RecordReason::ALL.len()],
    one_sided: [u64; 2],
    /// Flows that rules counted and allow-lists put aside, by rule.
    suppressed: Vec<u64>,
    alerts: Alerts,
}

impl Ledger {
    /// An empty ledger. The series of `rules` exist from now on; others begin when they are met.
    pub fn new(limits: Limits, rules: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self {
            limits,
            rules: rules.into_iter().collect(),
            services: Default::default(),
            sources: Sources::new(limits.sources, limits.idle),
            records: [0; RecordReason::ALL.len()],
            one_sided: [0; 2],
            suppressed: Vec::new(),
            alerts: Alerts::default(),
        }
    }

    /// Books one call's effects. `now` decides which sources are idle; it must not go back.
    pub fn observe(&mut self, effects: &Effects, places: Places<'_>, now: Time) {
        // Most flows go to the port of the one before.
        let mut last = None;
        for delta in &effects.deltas {
            let port = delta.key.server_port;
            let service = match last {
                Some((last, service)) if last == port => service,
                _ => places.service(&delta.key),
            };
            last = Some((port, service));
            self.services[service].add(delta);
            self.sources.row(places.source(&delta.key), now).add(delta);
        }
        // What an allow-list puts aside is counted apart.
        for qualified in effects.matched_flows.iter().filter(|qualified| qualified.suppressed) {
            let rule = self.rule(&qualified.rule);
            if self.suppressed.len() <= rule {
                self.suppressed.resize(rule + 1, 0);
            }
            self.suppressed[rule] += 1;
        }
        for qualified in effects.matched_flows.iter().filter(|qualified| !qualified.suppressed) {
            let rule = self.rule(&qualified.rule);
            self.services[places.service(&qualified.key)].qualify(rule);
            self.sources.row(places.source(&qualified.key), now).qualify(rule);
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
        self.sources.retire(now);
    }

    /// What was booked since the process started: client to server, server to client.
    pub fn booked(&self) -> (CounterDelta, CounterDelta) {
        let mut sum = Row::default();
        self.services.iter().for_each(|row| sum.merge(row));
        (sum.up, sum.down)
    }

    /// An alert of this rule fires that another process told: it is no event of this one.
    pub fn resume(&mut self, rule: &str, fingerprint: &str) {
        let rule = self.rule(&Arc::from(rule));
        self.alerts.resume(rule, fingerprint);
    }

    /// What each source with a row of its own has had, and `other` and `retired` for those without, in the
    /// order of the page.
    pub fn sources(&self) -> Vec<SourceSums<'_>> {
        let sums = |(source, row): (_, &Row)| {
            let Row { up, down, flows, messages, ref qualified } = *row;
            SourceSums { source, up, down, flows, messages, qualifying: qualified.iter().sum() }
        };
        self.sources.rows().into_iter().map(sums).collect()
    }

    /// How many sources have rows of their own.
    pub fn tracked(&self) -> usize {
        self.sources.len()
    }

    /// Writes the families. `windows` is what the rules' windows hold now.
    pub fn render(&self, windows: &WindowReport, out: &mut String) {
        let names = Service::ALL.iter().map(|service| service.name()).chain([NO_SERVICE]);
        SERVICES.render(out, &self.rules, names.zip(&self.services));
        SOURCES.render(out, &self.rules, self.sources.rows().iter().copied());
        TRACKED.single(out, self.sources.len());
        LIMIT.single(out, self.limits.sources);
        windows::render(out, windows);
        RECORDS.head(out);
        for (reason, count) in RecordReason::ALL.iter().zip(self.records) {
            RECORDS.sample(out, &[("reason", reason.name())], count);
        }
        ONE_SIDED.head(out);
        for (direction, count) in ["up", "down"].iter().zip(self.one_sided) {
            ONE_SIDED.sample(out, &[("direction", direction)], count);
        }
        SUPPRESSED.head(out);
        for (index, rule) in self.rules.iter().enumerate() {
            let number = self.suppressed.get(index).copied().unwrap_or_default();
            SUPPRESSED.sample(out, &[("rule", rule)], number);
        }
        self.alerts.render(out, &self.rules);
    }

    fn rule(&mut self, name: &Arc<str>) -> usize {
        self.rules.iter().position(|rule| rule == name).unwrap_or_else(|| {
            self.rules.push(Arc::clone(name));
            self.rules.len() - 1
        })
    }
}

/// What a source has had since the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceSums<'a> {
    /// The source as the page names it.
    pub source: &'a str,
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
    /// Flows begun.
    pub flows: u64,
    /// Messages estimated.
    pub messages: u64,
    /// Flows that a rule counted, summed over the rules.
    pub qualifying: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Up = 0,
    Down = 1,
}

/// The only direction a flow was seen in, if the other one must have been elsewhere. A SYN that
/// nobody answered is no such flow.
fn one_sided(flow: &Flow) -> Option<Side> {
    match (flow.up.packets, flow.down.packets) {
        (0, 1..) => Some(Side::Down),
        (1.., 0) if flow.up.data_packets > 0 || flow.facts.syn == 0 => Some(Side::Up),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_index() {
        for (index, service) in Service::ALL.into_iter().enumerate() {
            assert_eq!(service as usize, index, "{service:?}");
        }
        for (index, reason) in RecordReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
        }
    }
}
