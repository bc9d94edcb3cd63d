//! How an agent is.

use std::collections::BTreeMap;

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
    /// Whether the last attempt to load it succeeded.
    pub config_good: bool,
    /// How often the kernel's tables are read, in seconds.
    pub poll_seconds: f64,
    /// The programs at their hooks.
    pub interfaces: Vec<Place>,
    /// Who looks at the hooks; none until the tables were read once.
    pub lookout: Option<Lookout>,
    /// The flow table.
    pub flows: Fill,
    /// The table of sources beyond it.
    pub overflow: Fill,
    /// Sources with numbers of their own.
    pub sources: usize,
    /// Whether every packet that was counted is held somewhere.
    pub conservation: Conservation,
    /// Buffers that were not counted to a flow, by reason, where there are any.
    pub uncounted: BTreeMap<String, u64>,
    /// Whether packets seem to come twice.
    pub delivered_twice: bool,
    /// The rules.
    pub rules: Vec<RuleStatus>,
    /// The alerts that fire, oldest first.
    pub alerts: Vec<Firing>,
    /// Where events go.
    pub sinks: Vec<Sink>,
    /// The state on the disk; none where the agent keeps none.
    pub durability: Option<Durability>,
    /// What else there is to say of its life: pins, state, capabilities.
    pub notes: Vec<String>,
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
    /// Whether it is there.
    pub attached: bool,
    /// Its place among the hook's programs, 1 being the first; none where that cannot be told.
    pub position: Option<u32>,
    /// How often it was attached again.
    pub again: u64,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Sources whose window is not empty.
    pub sources: usize,
    /// The highest value of a window.
    pub highest: u64,
    /// Whose it is.
    pub highest_source: Option<String>,
}

/// An alert that fires.
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
