//! How an agent is.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// How the agent is. Fields come, and do not go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Of the agent.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// The configuration file; none is the built-in one.
    pub config: Option<String>,
    /// True if the last attempt to load it succeeded.
    pub config_good: bool,
    /// The internal networks; none from an agent that does not say it.
    pub lists: Option<ListStatus>,
    /// How often the kernel's tables are read, in seconds.
    pub poll_seconds: f64,
    /// The programs at their hooks.
    pub interfaces: Vec<Place>,
    /// The entries of the configuration that are watched, and the interfaces that each is bound to.
    pub watched: Vec<Watched>,
    /// Clients inside that are in no internal network.
    pub unlisted: Unlisted,
    /// Warnings about where and how the agent runs, a line each.
    pub warnings: Vec<String>,
    /// Who looks at the hooks; none until the tables were read once.
    pub lookout: Option<Lookout>,
    /// The flow table.
    pub flows: Fill,
    /// The table of sources beyond it.
    pub overflow: Fill,
    /// Sources with numbers of their own.
    pub sources: usize,
    /// True if every packet that was counted is held somewhere.
    pub conservation: Conservation,
    /// Buffers that were not counted to a flow, by reason, where there are any.
    pub uncounted: BTreeMap<String, u64>,
    /// True if packets seem to come twice.
    pub delivered_twice: bool,
    /// The rules.
    pub rules: Vec<RuleStatus>,
    /// The alerts that fire, oldest first.
    pub alerts: Vec<FiringAlert>,
    /// Where events go.
    pub sinks: Vec<Sink>,
    /// The state on the disk; none where the agent keeps none.
    pub durability: Option<Durability>,
    /// What else there is to say of its life: pins, state, capabilities.
    pub notes: Vec<String>,
}

/// The internal networks and the files that list them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListStatus {
    /// Networks in force.
    pub networks: u64,
    /// The first fault for which the files, since they changed, are refused; none where they are in force.
    pub refused: Option<String>,
}

/// The state on the disk, which the next agent goes on from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durability {
    /// True where the state is written.
    pub durable: bool,
    /// The beginning of that, or of the trouble, in seconds since 1970.
    pub since: f64,
    /// Why it cannot be written.
    pub cause: Option<String>,
    /// True once flows leave the kernel's table without being written down.
    pub in_memory: bool,
    /// True while the journal is still written, and the state alone is not. Where neither this nor `in_memory` holds,
    /// flows wait in the kernel's table.
    pub journal: bool,
}

/// A program's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As configured.
    pub interface: String,
    /// `xdp.frags`, `xdp`, `tcx` or `clsact`.
    pub hook: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// True if the program is attached.
    pub attached: bool,
    /// Its place among the hook's programs, 1 being the first; none where that cannot be told.
    pub position: Option<u32>,
    /// How often it was attached again.
    pub again: u64,
}

/// An entry of the configuration that is watched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watched {
    /// The name or the pattern, as configured.
    pub entry: String,
    /// The entry is a pattern.
    pub pattern: bool,
    /// Hook, as configured.
    pub hook: String,
    /// The interfaces that it is bound to.
    pub interfaces: Vec<WatchedInterface>,
    /// For how long there is none, in seconds.
    pub missing_seconds: Option<f64>,
}

/// An interface that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchedInterface {
    /// Its name.
    pub name: String,
    /// `lan`, `host` or `mirror`.
    pub role: String,
}

/// Clients inside that are in no internal network: no rule with `source: internal` counts their flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unlisted {
    /// Interfaces with the networks behind them.
    pub prefixes: Vec<String>,
    /// Flows of such clients to the Internet, since the agent started.
    pub flows: u64,
    /// Some of the clients.
    pub clients: Vec<String>,
}

/// The process that looks at the hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lookout {
    /// Its number; none once it is gone: then places at TCX cannot be told.
    pub process: Option<u32>,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Its entries.
    pub entries: u64,
    /// Most it can hold.
    pub capacity: u64,
}

/// A number for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// Client to server.
    pub up: i64,
    /// Server to client.
    pub down: i64,
}

/// What was counted less what is held: zeros, unless something was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conservation {
    /// Packets.
    pub packets: Ways,
    /// IP bytes.
    pub bytes: Ways,
    /// Packets of `packets` that are in no table.
    pub unattributed_packets: Ways,
}

/// A rule and its windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// How loud it speaks.
    pub severity: String,
    /// Length of its window in seconds.
    pub window_seconds: u64,
    /// Sources whose windows are not all empty.
    pub sources: usize,
    /// The value that is nearest to its threshold.
    pub highest: Number,
    /// Whose it is.
    pub highest_source: Option<String>,
    /// The term of the condition that it is of.
    pub highest_condition: Option<String>,
    /// The unit of value and threshold.
    pub highest_unit: Option<String>,
    /// The threshold of the term.
    pub highest_threshold: Number,
}

/// A number as it is shown: whole, or a ratio.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Number {
    /// A whole number.
    Whole(u64),
    /// A part of one.
    Part(f64),
}

impl Number {
    /// Returns `number` divided by `scale`.
    pub fn of(number: u64, scale: u64) -> Self {
        if scale <= 1 { Self::Whole(number) } else { Self::Part(number as f64 / scale as f64) }
    }
}

impl Default for Number {
    fn default() -> Self {
        Self::Whole(0)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Part(number) => number.fmt(f),
        }
    }
}

/// An alert that fires, with what its window holds now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FiringAlert {
    /// The rule.
    pub rule: String,
    /// Its severity.
    pub severity: String,
    /// Whom it is about.
    pub source: String,
    /// Identity of rule and source.
    pub fingerprint: String,
    /// Since when, in seconds since 1970.
    pub since: f64,
    /// The term that decided; none where only the numbers of its last event are known.
    pub condition: Option<String>,
    /// The unit of value and threshold.
    pub unit: Option<String>,
    /// What the window of the term holds.
    pub value: Number,
    /// True if that is a lower bound.
    pub at_bound: bool,
    /// What the rule allows.
    pub threshold: Number,
}

/// An alert that fires, as it is kept from one process to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Firing {
    /// The rule.
    pub rule: String,
    /// How loud it speaks.
    pub severity: String,
    /// The source.
    pub source: String,
    /// Identity of rule and source.
    pub fingerprint: String,
    /// Since when, in seconds since 1970.
    pub since: f64,
    /// What the window held when it was last told.
    pub value: u64,
    /// What the rule allows.
    pub threshold: u64,
}

/// Where events go, and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sink {
    /// Its name.
    pub name: String,
    /// Numbers by their names in the metrics: `lines_written`, `lines_dropped`, `errors`, `queue_lines`.
    pub numbers: BTreeMap<String, u64>,
}
