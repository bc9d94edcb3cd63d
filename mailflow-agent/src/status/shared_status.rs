//! What the metrics port and the control socket show of the agent.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use mailflow_common::Reason;

use super::{active_alerts::FiringAlerts, unlisted_clients::UnlistedClients};
use crate::{
    config::Config,
    control::{
        self, Conservation, Durability, Number, Place, Row, RuleStatus, Status, Top, Unlisted, Watched,
        WatchedInterface, Ways,
    },
    http,
    metrics::{Agent, Fill, KernelView, Ledger, Limits, Load, Memory, Page},
};
use mailflow_engine::{
    query::window_scan::{TermProgress, WindowReport},
    settings::unit,
};
use mailflow_kernel::InsidePrefix;
use mailflow_kernel::clock;

/// Shared by the pipeline, which writes it, and by those that read it: the metrics port and the control
/// socket.
pub(crate) struct View {
    /// The agent's own metrics.
    pub(crate) agent: Agent,
    started: f64,
    /// Address of the metrics.
    metrics: Option<SocketAddr>,
    numbers: Mutex<Numbers>,
    ready: AtomicBool,
    durability: Mutex<Option<Durability>>,
    /// Why pins cannot be made again, if they are gone.
    pins: Mutex<Option<String>>,
}

/// What changes with each poll.
pub(crate) struct Numbers {
    pub(crate) ledger: Ledger,
    pub(crate) windows: WindowReport,
    pub(crate) memory: Option<Memory>,
    pub(crate) kernel: Option<KernelView>,
    pub(crate) firing: FiringAlerts,
    pub(crate) settings: Shown,
    /// The fault for which the changed lists of networks are refused; empty where they are in force.
    pub(crate) lists_refused: String,
    pub(crate) clients: UnlistedClients,
    /// Networks behind inside interfaces that are in no internal network.
    pub(crate) unlisted: Vec<InsidePrefix>,
    /// Inside interfaces by which a default route leaves.
    pub(crate) outward: Vec<String>,
}

/// What is shown of the configuration in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    file: Option<String>,
    poll_seconds: f64,
    rules: Vec<RuleStatus>,
    /// What else there is to say of the agent's life.
    pub(crate) notes: Vec<String>,
    /// Warnings about how the agent runs.
    pub(crate) warnings: Vec<String>,
}

impl Shown {
    /// Of this configuration, whose file is `file`.
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

impl View {
    pub(crate) fn new(config: &Config, file: Option<String>, started: f64) -> Result<Self> {
        let agent = Agent::new(env!("CARGO_PKG_VERSION"), started)?;
        agent.config_loaded(Load::Good(started));
        agent.lists_loaded(Load::Good(started));
        agent.listed_networks(config.engine.internal.networks().len());
        let outputs = &config.outputs;
        let limits = Limits { sources: outputs.max_sources, ..Limits::default() };
        let rules = config.engine.rules.iter().map(|rule| rule.name.clone());
        let numbers = Numbers {
            ledger: Ledger::new(limits, rules),
            windows: WindowReport::default(),
            memory: None,
            kernel: None,
            firing: FiringAlerts::default(),
            settings: Shown::of(config, file),
            lists_refused: String::new(),
            clients: UnlistedClients::default(),
            unlisted: Vec::new(),
            outward: Vec::new(),
        };
        Ok(Self {
            agent,
            started,
            metrics: outputs.metrics,
            numbers: Mutex::new(numbers),
            ready: AtomicBool::new(false),
            durability: Mutex::default(),
            pins: Mutex::default(),
        })
    }

    /// The numbers. A panic elsewhere leaves them whole enough to be shown.
    pub(crate) fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is, in a line.
    pub(crate) fn summary(&self) -> String {
        let numbers = self.numbers();
        let places = numbers.kernel.iter().flat_map(|kernel| &kernel.attached);
        let away = places.filter(|place| !place.attached).count();
        let missing = if away == 0 { String::new() } else { format!(", {away} programs NOT attached") };
        let entries = numbers.kernel.iter().flat_map(|kernel| &kernel.entries);
        let waits: Vec<&str> =
            entries.filter(|entry| entry.missing.is_some()).map(|entry| entry.name.as_str()).collect();
        let waits =
            if waits.is_empty() { String::new() } else { format!(", waiting for {}", waits.join(", ")) };
        let firing = match numbers.firing.len() {
            0 => String::new(),
            1 => ", 1 alert fires".to_owned(),
            more => format!(", {more} alerts fire"),
        };
        let refused = if self.agent.config_good() { "" } else { ", the last configuration was refused" };
        let durable = self.durability().is_none_or(|durability| durability.durable);
        let durable = if durable { "" } else { ", the state is NOT written" };
        let lists =
            if numbers.lists_refused.is_empty() { "" } else { ", the changed lists of networks are refused" };
        format!("counting{missing}{waits}{durable}{firing}{refused}{lists}")
    }

    /// Shows how the state on the disk is.
    pub(crate) fn set_durability(&self, durability: Option<Durability>, usage: Option<(u64, u64)>) {
        if let (Some(durability), Some((bytes, failures))) = (&durability, usage) {
            self.agent.state_kept(durability.durable, bytes, failures);
        }
        *self.durability.lock().unwrap_or_else(PoisonError::into_inner) = durability;
    }

    /// Shows why pins cannot be made again that are gone.
    pub(crate) fn set_pins(&self, trouble: Option<String>) {
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn durability(&self) -> Option<Durability> {
        self.durability.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn poll_failed(&self) {
        self.agent.poll_failed();
    }

    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

impl http::State for View {
    fn metrics(&self) -> Result<String> {
        let mut page = String::new();
        let numbers = self.numbers();
        Page {
            agent: &self.agent,
            ledger: &numbers.ledger,
            windows: &numbers.windows,
            memory: numbers.memory.as_ref(),
            kernel: numbers.kernel.as_ref(),
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

impl control::State for View {
    fn status(&self) -> Status {
        let sinks = self.agent.sinks().into_iter();
        let numbers = self.numbers();
        let kernel = numbers.kernel.as_ref();
        let mut rules = numbers.settings.rules.clone();
        for standing in &numbers.windows.rules {
            let Some(rule) = rules.iter_mut().find(|rule| rule.name == *standing.rule) else { continue };
            rule.sources = usize::try_from(standing.groups).unwrap_or(usize::MAX);
            if let Some(TermProgress { group_key: subject, term, value, threshold, scale, .. }) =
                &standing.highest
            {
                rule.highest = Number::of(value.number(), *scale);
                rule.highest_source = Some(subject.to_string());
                rule.highest_condition = Some(term.to_string());
                rule.highest_unit = Some(unit(term).to_owned());
                rule.highest_threshold = Number::of(*threshold, *scale);
            }
        }
        let fill = |fill: Fill| control::Fill { entries: fill.entries, capacity: fill.capacity };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: (clock::unix_seconds() - self.started).max(0.0),
            config: numbers.settings.file.clone(),
            config_good: self.agent.config_good(),
            lists: Some(control::ListStatus {
                networks: self.agent.networks_listed(),
                refused: Some(&numbers.lists_refused).filter(|fault| !fault.is_empty()).cloned(),
            }),
            poll_seconds: numbers.settings.poll_seconds,
            interfaces: kernel.map(places).unwrap_or_default(),
            lookout: kernel.map(|kernel| control::Lookout { process: kernel.lookout }),
            flows: kernel.map(|kernel| fill(kernel.flows)).unwrap_or_default(),
            overflow: kernel.map(|kernel| fill(kernel.overflow)).unwrap_or_default(),
            sources: numbers.ledger.tracked(),
            conservation: kernel.map(conservation).unwrap_or_default(),
            uncounted: kernel.map(|kernel| uncounted(kernel).collect()).unwrap_or_default(),
            watched: kernel.map(watched).unwrap_or_default(),
            unlisted: unlisted(&numbers),
            warnings: warnings(&numbers, self.metrics),
            delivered_twice: kernel.is_some_and(|kernel| kernel.twice),
            rules,
            alerts: numbers.firing.shown(&numbers.windows.firing),
            sinks: sinks.map(|(name, numbers)| control::Sink { name, numbers }).collect(),
            durability: self.durability(),
            notes: {
                let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner).clone();
                numbers.settings.notes.iter().cloned().chain(pins).collect()
            },
        }
    }

    fn top(&self) -> Top {
        let numbers = self.numbers();
        let rows = numbers.ledger.sources().into_iter().map(|sums| Row {
            source: sums.source.to_owned(),
            packets_up: sums.up.packets,
            bytes_up: sums.up.bytes,
            packets_down: sums.down.packets,
            bytes_down: sums.down.bytes,
            flows: sums.flows,
            messages: sums.messages,
            qualifying: sums.qualifying,
        });
        Top { at_seconds: (clock::unix_seconds() - self.started).max(0.0), rows: rows.collect() }
    }
}

fn watched(kernel: &KernelView) -> Vec<Watched> {
    let entry = |entry: &crate::metrics::WatchedEntry| Watched {
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

fn unlisted(numbers: &Numbers) -> Unlisted {
    let prefix = |found: &InsidePrefix| format!("{} {}", found.interface, found.prefix);
    Unlisted {
        prefixes: numbers.unlisted.iter().map(prefix).collect(),
        flows: numbers.clients.flows,
        clients: numbers.clients.examples.iter().map(ToString::to_string).collect(),
    }
}

/// Returns the warnings about where and how the agent runs, a line each.
fn warnings(numbers: &Numbers, metrics: Option<SocketAddr>) -> Vec<String> {
    let mut warnings = numbers.settings.warnings.clone();
    let outward = |interface: &String| {
        format!(
            "{interface} is watched as the inside (role lan), but a default route leaves by it: behind source NAT the \
             internal hosts cannot be distinguished there"
        )
    };
    warnings.extend(numbers.outward.iter().map(outward));
    if let Some(address) = metrics.filter(|address| !http::is_assigned(*address)) {
        warnings.push(format!("the metrics are served at {address}, which no interface has yet"));
    }
    warnings
}

fn places(kernel: &KernelView) -> Vec<Place> {
    let place = |place: &crate::metrics::Attached| Place {
        interface: place.interface.clone(),
        hook: place.hook.to_owned(),
        direction: place.direction.to_owned(),
        attached: place.attached,
        position: place.position,
        again: place.again,
    };
    kernel.attached.iter().map(place).collect()
}

fn conservation(kernel: &KernelView) -> Conservation {
    let ways = |[up, down]: [i64; 2]| Ways { up, down };
    let count = |packets: u64| i64::try_from(packets).unwrap_or(i64::MAX);
    let totals = &kernel.totals;
    let lost = [&totals.unattributed_up, &totals.unattributed_down].map(|totals| count(totals.packets));
    let [packets, bytes] = kernel.missing;
    Conservation { packets: ways(packets), bytes: ways(bytes), unattributed_packets: ways(lost) }
}

fn uncounted(kernel: &KernelView) -> impl Iterator<Item = (String, u64)> {
    let count = |reason: Reason| (reason.name().to_owned(), kernel.totals.reason(reason));
    Reason::ALL.into_iter().map(count).filter(|(_, buffers)| *buffers > 0)
}
