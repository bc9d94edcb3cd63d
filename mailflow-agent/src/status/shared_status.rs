//! Content of the metrics page and of `status`.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use mailflow_common::Reason;

use super::{firing_alerts, unlisted_clients::UnlistedClients};
use crate::{
    config::Config,
    control::{
        self, Conservation, DirectionCounts, Durability, ProgramStatus, RuleStatus, Status, StatusNumber,
        TopSnapshot, TopSource, UnlistedClientsStatus, WatchedEntryStatus, WatchedInterface,
    },
    http,
    metrics::{
        AgentMetrics, EngineStats, KernelSnapshot, LoadOutcome, MetricsPage, SeriesLimits, TrafficCounters,
        Utilisation,
    },
};
use mailflow_engine::{
    Engine,
    event::Alert,
    query::window_scan::{TermProgress, WindowReport},
    settings::unit,
};
use mailflow_kernel::InsidePrefix;
use mailflow_kernel::clock;

/// State shared by the pipeline, which writes it, and its readers: the metrics port and the control socket.
pub(crate) struct SharedStatus {
    /// Metrics of the agent itself.
    pub(crate) agent: AgentMetrics,
    started: f64,
    /// Address of the metrics port.
    metrics: Option<SocketAddr>,
    snapshot: Mutex<PollSnapshot>,
    ready: AtomicBool,
    durability: Mutex<Option<Durability>>,
    /// Reason why missing pins cannot be restored.
    pins: Mutex<Option<String>>,
}

/// State that changes with each poll.
pub(crate) struct PollSnapshot {
    pub(crate) traffic: TrafficCounters,
    pub(crate) windows: WindowReport,
    pub(crate) engine: Option<EngineStats>,
    pub(crate) kernel: Option<KernelSnapshot>,
    /// Firing alerts of the engine, suppressed ones included.
    firing: Vec<Arc<Alert>>,
    pub(crate) settings: ConfigSummary,
    /// Reason why the changed lists of networks are refused, empty if they are in force.
    pub(crate) lists_refused: String,
    pub(crate) unlisted_clients: UnlistedClients,
    /// Networks behind inside interfaces that are in no internal network.
    pub(crate) unlisted: Vec<InsidePrefix>,
    /// Inside interfaces with a default route.
    pub(crate) default_route_interfaces: Vec<String>,
}

/// Summary of the configuration in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigSummary {
    file: Option<String>,
    poll_seconds: f64,
    rules: Vec<RuleStatus>,
    /// Notes about the start of the agent.
    pub(crate) notes: Vec<String>,
    /// Warnings about the environment of the agent.
    pub(crate) warnings: Vec<String>,
}

impl ConfigSummary {
    /// Creates the summary of a configuration from `file`.
    pub(crate) fn of(config: &Config, file: Option<String>) -> Self {
        let rules = config.engine.rules.iter().map(|rule| RuleStatus {
            name: rule.name.to_string(),
            version: rule.version,
            severity: rule.severity.name().to_owned(),
            window_seconds: rule.window.length.as_secs(),
            ..RuleStatus::default()
        });
        let poll_seconds = config.poll_interval.as_secs_f64();
        Self { file, poll_seconds, rules: rules.collect(), ..Self::default() }
    }
}

impl SharedStatus {
    /// Creates the status of an agent that started `started` seconds after 1970.
    pub(crate) fn new(config: &Config, file: Option<String>, started: f64) -> Result<Self> {
        let agent = AgentMetrics::new(env!("CARGO_PKG_VERSION"), started)?;
        agent.record_config_load(LoadOutcome::Loaded(started));
        agent.record_lists_load(LoadOutcome::Loaded(started));
        agent.set_network_lines(config.engine.internal.networks().len());
        let outputs = &config.outputs;
        let limits = SeriesLimits { sources: outputs.max_sources, ..SeriesLimits::default() };
        let rules = config.engine.rules.iter().map(|rule| rule.name.clone());
        let snapshot = PollSnapshot {
            traffic: TrafficCounters::new(limits, rules),
            windows: WindowReport::default(),
            engine: None,
            kernel: None,
            firing: Vec::new(),
            settings: ConfigSummary::of(config, file),
            lists_refused: String::new(),
            unlisted_clients: UnlistedClients::default(),
            unlisted: Vec::new(),
            default_route_interfaces: Vec::new(),
        };
        Ok(Self {
            agent,
            started,
            metrics: outputs.metrics,
            snapshot: Mutex::new(snapshot),
            ready: AtomicBool::new(false),
            durability: Mutex::default(),
            pins: Mutex::default(),
        })
    }

    /// Returns the locked snapshot. A panic in another thread leaves it consistent enough to show.
    pub(crate) fn snapshot(&self) -> MutexGuard<'_, PollSnapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the firing alerts of the engine. Call after each change of them.
    pub(crate) fn publish_firing(&self, engine: &Engine) {
        let firing = engine.firing();
        self.snapshot().firing = firing;
    }

    /// Returns the state of the agent in one line.
    pub(crate) fn summary(&self) -> String {
        let snapshot = self.snapshot();
        let attachments = snapshot.kernel.iter().flat_map(|kernel| &kernel.attached);
        let detached = attachments.filter(|attachment| !attachment.attached).count();
        let missing =
            if detached == 0 { String::new() } else { format!(", {detached} programs NOT attached") };
        let entries = snapshot.kernel.iter().flat_map(|kernel| &kernel.entries);
        let waiting: Vec<&str> =
            entries.filter(|entry| entry.missing.is_some()).map(|entry| entry.name.as_str()).collect();
        let waiting =
            if waiting.is_empty() { String::new() } else { format!(", waiting for {}", waiting.join(", ")) };
        let firing = match firing_alerts::notifying(&snapshot.firing).count() {
            0 => String::new(),
            1 => ", 1 alert fires".to_owned(),
            more => format!(", {more} alerts fire"),
        };
        let refused =
            if self.agent.is_config_current() { "" } else { ", the last configuration was refused" };
        let durable = self.durability().is_none_or(|durability| durability.durable);
        let durable = if durable { "" } else { ", the state is NOT written" };
        let lists = if snapshot.lists_refused.is_empty() {
            ""
        } else {
            ", the changed lists of networks are refused"
        };
        format!("counting{missing}{waiting}{durable}{firing}{refused}{lists}")
    }

    /// Sets the durability of the state on disk.
    pub(crate) fn set_durability(&self, durability: Option<Durability>, usage: Option<(u64, u64)>) {
        if let (Some(durability), Some((bytes, failures))) = (&durability, usage) {
            self.agent.record_state_usage(durability.durable, bytes, failures);
        }
        *self.durability.lock().unwrap_or_else(PoisonError::into_inner) = durability;
    }

    /// Sets the reason why missing pins cannot be restored.
    pub(crate) fn set_pins(&self, reason: Option<String>) {
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    fn durability(&self) -> Option<Durability> {
        self.durability.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a failed poll.
    pub(crate) fn count_poll_failure(&self) {
        self.agent.count_poll_failure();
    }

    /// Marks the agent as ready.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

impl http::MetricsProvider for SharedStatus {
    fn metrics(&self) -> Result<String> {
        let mut page = String::new();
        let snapshot = self.snapshot();
        MetricsPage {
            agent: &self.agent,
            traffic: &snapshot.traffic,
            windows: &snapshot.windows,
            firing: &snapshot.firing,
            engine: snapshot.engine.as_ref(),
            kernel: snapshot.kernel.as_ref(),
        }
        .render(&mut page)?;
        Ok(page)
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn warning(&self) -> Option<String> {
        let Durability { durable, cause, in_memory, journal, .. } = self.durability()?;
        let cause = cause.filter(|_| !durable)?;
        Some(if in_memory {
            format!("without durability: {cause}")
        } else if journal {
            format!("the journal grows, as the state cannot be replaced: {cause}")
        } else {
            format!("flows wait for the state to be written: {cause}")
        })
    }
}

impl control::StatusProvider for SharedStatus {
    fn status(&self) -> Status {
        let sinks = self.agent.sinks().into_iter();
        let snapshot = self.snapshot();
        let kernel = snapshot.kernel.as_ref();
        let mut rules = snapshot.settings.rules.clone();
        for standing in &snapshot.windows.rules {
            let Some(rule) = rules.iter_mut().find(|rule| rule.name == *standing.rule) else { continue };
            rule.sources = usize::try_from(standing.groups).unwrap_or(usize::MAX);
            if let Some(TermProgress { group_key: subject, term, value, threshold, scale, .. }) =
                &standing.highest
            {
                rule.highest = StatusNumber::of(value.number(), *scale);
                rule.highest_source = Some(subject.to_string());
                rule.highest_condition = Some(term.to_string());
                rule.highest_unit = Some(unit(term).to_owned());
                rule.highest_threshold = StatusNumber::of(*threshold, *scale);
            }
        }
        let fill = |fill: Utilisation| control::TableUsage { entries: fill.entries, capacity: fill.capacity };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: (clock::unix_seconds() - self.started).max(0.0),
            config: snapshot.settings.file.clone(),
            config_good: self.agent.is_config_current(),
            lists: Some(control::ListStatus {
                networks: self.agent.network_lines(),
                refused: Some(&snapshot.lists_refused).filter(|fault| !fault.is_empty()).cloned(),
            }),
            poll_seconds: snapshot.settings.poll_seconds,
            interfaces: kernel.map(attachments).unwrap_or_default(),
            hook_monitor: kernel.map(|kernel| control::HelperStatus { process: kernel.helper_pid }),
            flows: kernel.map(|kernel| fill(kernel.flows)).unwrap_or_default(),
            overflow: kernel.map(|kernel| fill(kernel.overflow)).unwrap_or_default(),
            sources: snapshot.traffic.source_count(),
            conservation: kernel.map(conservation).unwrap_or_default(),
            uncounted: kernel.map(|kernel| uncounted(kernel).collect()).unwrap_or_default(),
            watched: kernel.map(watched).unwrap_or_default(),
            unlisted: unlisted(&snapshot),
            warnings: warnings(&snapshot, self.metrics),
            duplicate_delivery: kernel.is_some_and(|kernel| kernel.duplicate_delivery),
            rules,
            alerts: firing_alerts::status_rows(
                firing_alerts::notifying(&snapshot.firing),
                &snapshot.windows.firing,
            ),
            outputs: sinks.map(|(name, metrics)| control::OutputStatus::new(name, &metrics)).collect(),
            durability: self.durability(),
            notes: {
                let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner).clone();
                snapshot.settings.notes.iter().cloned().chain(pins).collect()
            },
        }
    }

    fn top(&self) -> TopSnapshot {
        let snapshot = self.snapshot();
        let rows = snapshot.traffic.sources().into_iter().map(|totals| TopSource {
            source: totals.source.to_owned(),
            packets_up: totals.up.packets,
            bytes_up: totals.up.bytes,
            packets_down: totals.down.packets,
            bytes_down: totals.down.bytes,
            flows: totals.flows,
            messages: totals.messages,
            matched_flows: totals.matched_flows,
        });
        TopSnapshot { at_seconds: (clock::unix_seconds() - self.started).max(0.0), rows: rows.collect() }
    }
}

/// Converts the entries of the configured interfaces.
fn watched(kernel: &KernelSnapshot) -> Vec<WatchedEntryStatus> {
    let entry = |entry: &crate::metrics::WatchedEntry| WatchedEntryStatus {
        entry: entry.name.clone(),
        pattern: entry.pattern,
        hook: entry.hook.to_owned(),
        interfaces: entry
            .interfaces
            .iter()
            .map(|(name, role)| WatchedInterface { name: name.clone(), role: (*role).to_owned() })
            .collect(),
        missing_seconds: entry.missing.map(|missing| missing.as_secs_f64()),
    };
    kernel.entries.iter().map(entry).collect()
}

/// Converts the clients and networks that are in no internal network.
fn unlisted(snapshot: &PollSnapshot) -> UnlistedClientsStatus {
    let prefix = |found: &InsidePrefix| format!("{} {}", found.interface, found.prefix);
    UnlistedClientsStatus {
        prefixes: snapshot.unlisted.iter().map(prefix).collect(),
        flows: snapshot.unlisted_clients.flows,
        clients: snapshot.unlisted_clients.examples.iter().map(ToString::to_string).collect(),
    }
}

/// Returns the warnings about the environment of the agent, one a line.
fn warnings(snapshot: &PollSnapshot, metrics: Option<SocketAddr>) -> Vec<String> {
    let mut warnings = snapshot.settings.warnings.clone();
    let outward_warning = |interface: &String| {
        format!(
            "{interface} is watched as the inside (role lan), but a default route leaves by it: behind source NAT the \
             internal hosts cannot be distinguished there"
        )
    };
    warnings.extend(snapshot.default_route_interfaces.iter().map(outward_warning));
    if let Some(address) = metrics.filter(|address| !http::is_assigned(*address)) {
        warnings.push(format!("the metrics are served at {address}, which no interface has yet"));
    }
    warnings
}

/// Converts the attachments.
fn attachments(kernel: &KernelSnapshot) -> Vec<ProgramStatus> {
    let attachment = |attachment: &crate::metrics::ProgramAttachment| ProgramStatus {
        interface: attachment.interface.clone(),
        hook: attachment.hook.to_owned(),
        direction: attachment.direction.to_owned(),
        attached: attachment.attached,
        position: attachment.position,
        reattach_count: attachment.reattach_count,
    };
    kernel.attached.iter().map(attachment).collect()
}

/// Converts the conservation difference.
fn conservation(kernel: &KernelSnapshot) -> Conservation {
    let directions = |[up, down]: [i64; 2]| DirectionCounts { up, down };
    let count = |packets: u64| i64::try_from(packets).unwrap_or(i64::MAX);
    let totals = &kernel.totals;
    let lost = [&totals.unattributed_up, &totals.unattributed_down].map(|totals| count(totals.packets));
    let [packets, bytes] = kernel.difference;
    Conservation {
        packets: directions(packets),
        bytes: directions(bytes),
        unattributed_packets: directions(lost),
    }
}

/// Returns the numbers of uncounted buffers by reason, without zeros.
fn uncounted(kernel: &KernelSnapshot) -> impl Iterator<Item = (String, u64)> {
    let count = |reason: Reason| (reason.name().to_owned(), kernel.totals.reason(reason));
    Reason::ALL.into_iter().map(count).filter(|(_, buffers)| *buffers > 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::util::disk::FileLimits;

    #[test]
    fn output_status_has_each_metric_of_an_output() {
        let agent = AgentMetrics::new("0", 0.0).unwrap();
        drop((
            agent.sink_counters("a"),
            agent.receiver_counters("a"),
            agent.file_bounds("a", FileLimits::NONE),
        ));
        let names: Vec<String> = agent.sinks()["a"].keys().cloned().collect();
        let metrics: BTreeMap<String, u64> = names.iter().cloned().zip(1..).collect();
        let status = serde_json::to_value(control::OutputStatus::new("a".to_owned(), &metrics)).unwrap();
        for (name, value) in &metrics {
            assert_eq!(status[name], *value, "{name}");
        }
        let fields = status.as_object().unwrap().len();
        assert_eq!(fields, metrics.len() + 1, "{status}");
    }
}
