//! Status of the agent.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Status of the agent. New versions add fields, and remove none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Process ID of the agent.
    pub pid: u32,
    /// Time since the start of the agent, in seconds.
    pub uptime_seconds: f64,
    /// Configuration file; `None` for the shipped configuration.
    pub config: Option<String>,
    /// True if the last attempt to load the configuration succeeded.
    pub config_good: bool,
    /// Internal networks; `None` from an agent that does not report them.
    pub lists: Option<ListStatus>,
    /// Time between two polls, in seconds.
    pub poll_seconds: f64,
    /// Programs at their hooks.
    pub interfaces: Vec<ProgramStatus>,
    /// Configured interface entries, with the interfaces of each.
    pub watched: Vec<WatchedEntryStatus>,
    /// Inside clients that are in no internal network.
    pub unlisted: UnlistedClientsStatus,
    /// Warnings about the environment of the agent, a line each.
    pub warnings: Vec<String>,
    /// Helper process; `None` before the first poll.
    pub hook_monitor: Option<HelperStatus>,
    /// Usage of the flow table.
    pub flows: TableUsage,
    /// Usage of the overflow table.
    pub overflow: TableUsage,
    /// Number of sources with their own counters.
    pub sources: usize,
    /// Difference between counted packets and packets in tables and records.
    pub conservation: Conservation,
    /// Buffers that were not counted to a flow, by reason; reasons without buffers are omitted.
    pub uncounted: BTreeMap<String, u64>,
    /// True if packets seem to be delivered twice.
    pub duplicate_delivery: bool,
    /// Rules.
    pub rules: Vec<RuleStatus>,
    /// Firing alerts, oldest first.
    pub alerts: Vec<FiringAlert>,
    /// Outputs.
    pub outputs: Vec<OutputStatus>,
    /// Persistent state; `None` if the agent has no state directory.
    pub durability: Option<Durability>,
    /// Notes on pins, state and capabilities.
    pub notes: Vec<String>,
}

/// Internal networks and their list files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListStatus {
    /// Number of networks in force.
    pub networks: u64,
    /// First error of changed list files, which are not in force; `None` if all files are in force.
    pub refused: Option<String>,
}

/// Persistent state, from which the next process continues.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durability {
    /// True if the state is written.
    pub durable: bool,
    /// Time of the last change of `durable`, in seconds since 1970.
    pub since: f64,
    /// Error of writing the state.
    pub cause: Option<String>,
    /// True if flows are evicted from the kernel's table without being in the journal.
    pub in_memory: bool,
    /// True if the journal is still written, and only checkpoints fail. If neither this nor `in_memory` is
    /// true, flows stay in the kernel's table.
    pub journal: bool,
}

/// Status of a program at a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Interface, as configured.
    pub interface: String,
    /// Hook: `xdp.frags`, `xdp`, `tcx` or `clsact`.
    pub hook: String,
    /// Direction: `ingress` or `egress`.
    pub direction: String,
    /// True if the program is attached.
    pub attached: bool,
    /// Position among the programs of the hook, from 1; `None` if unknown.
    pub position: Option<u32>,
    /// Number of times that it was attached again.
    pub reattach_count: u64,
}

/// Status of a configured interface entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchedEntryStatus {
    /// Name or pattern, as configured.
    pub entry: String,
    /// True if the entry is a pattern.
    pub pattern: bool,
    /// Hook, as configured.
    pub hook: String,
    /// Interfaces of the entry.
    pub interfaces: Vec<WatchedInterface>,
    /// Time without an interface, in seconds; `None` if there is one.
    pub missing_seconds: Option<f64>,
}

/// Watched interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchedInterface {
    /// Name of the interface.
    pub name: String,
    /// Role: `lan`, `host` or `mirror`.
    pub role: String,
}

/// Inside clients that are in no internal network: no rule with `source: internal` counts their flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnlistedClientsStatus {
    /// Interfaces with their networks that are in no internal network.
    pub prefixes: Vec<String>,
    /// Number of flows of such clients to the Internet since the agent started.
    pub flows: u64,
    /// Examples of the clients.
    pub clients: Vec<String>,
}

/// Helper process that queries the programs at the hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HelperStatus {
    /// Process ID; `None` if it has ended. Then positions at TCX are unknown.
    pub process: Option<u32>,
}

/// Usage of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUsage {
    /// Number of entries.
    pub entries: u64,
    /// Maximum number of entries.
    pub capacity: u64,
}

/// Number for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionCounts {
    /// Client to server.
    pub up: i64,
    /// Server to client.
    pub down: i64,
}

/// Counted packets less packets in tables and records: zeros, unless packets were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conservation {
    /// Packets.
    pub packets: DirectionCounts,
    /// IP bytes.
    pub bytes: DirectionCounts,
    /// Packets that are in no table and have no source, as all tables were full.
    pub unattributed_packets: DirectionCounts,
}

/// Status of a rule and its windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleStatus {
    /// Name of the rule.
    pub name: String,
    /// Version of the rule.
    pub version: u32,
    /// Severity of the rule's alerts.
    pub severity: String,
    /// Length of the window, in seconds.
    pub window_seconds: u64,
    /// Number of sources whose windows are not all empty.
    pub sources: usize,
    /// Value that is nearest to its threshold.
    pub highest: StatusNumber,
    /// Source of that value.
    pub highest_source: Option<String>,
    /// Term of that value.
    pub highest_condition: Option<String>,
    /// Unit of value and threshold.
    pub highest_unit: Option<String>,
    /// Threshold of the term.
    pub highest_threshold: StatusNumber,
}

/// Number to show: an integer or a ratio.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StatusNumber {
    /// Integer.
    Whole(u64),
    /// Ratio.
    Part(f64),
}

impl StatusNumber {
    /// Returns `number` divided by `scale`.
    pub fn of(number: u64, scale: u64) -> Self {
        if scale <= 1 { Self::Whole(number) } else { Self::Part(number as f64 / scale as f64) }
    }
}

impl Default for StatusNumber {
    fn default() -> Self {
        Self::Whole(0)
    }
}

impl fmt::Display for StatusNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Part(number) => number.fmt(f),
        }
    }
}

/// Firing alert, with the current value of its window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FiringAlert {
    /// Name of the rule.
    pub rule: String,
    /// Severity.
    pub severity: String,
    /// Source or other group key.
    pub source: String,
    /// Fingerprint of rule and source.
    pub fingerprint: String,
    /// Start of the alert, in seconds since 1970.
    pub since: f64,
    /// Term that fired; `None` if only the values of its last event are known.
    pub condition: Option<String>,
    /// Unit of value and threshold.
    pub unit: Option<String>,
    /// Current value of the term.
    pub value: StatusNumber,
    /// True if the value is a lower bound.
    pub at_bound: bool,
    /// Threshold.
    pub threshold: StatusNumber,
}

/// Output, with the values of its metrics `mailflow_output_*`. Those that an output does not have are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputStatus {
    /// Name of the output.
    pub name: String,
    /// Number of lines that were written.
    pub lines_written: u64,
    /// Number of lines that were dropped, as the queue was full.
    pub lines_dropped: u64,
    /// Number of failed attempts to write or send.
    pub errors: u64,
    /// Number of lines in the queue.
    pub queue_lines: u64,
    /// Number of files that reached their maximum size and were replaced.
    pub files_replaced: u64,
    /// 1 while lines wait for free disk space.
    pub waiting_for_disk: u64,
    /// Number of requests that the receiver rejected.
    pub rejections: u64,
    /// Number of firing alerts that the receiver rejects, and that are sent again.
    pub rejected_alerts: u64,
    /// Number of alert events that were written to the dead-letter file.
    pub dead_letters_written: u64,
    /// Number of alert events in the dead-letter file.
    pub dead_letters: u64,
}

impl OutputStatus {
    /// Creates the status of an output from the values of its metrics, by name without `mailflow_output_` and `_total`.
    pub fn new(name: String, metrics: &BTreeMap<String, u64>) -> Self {
        let value = |name: &str| metrics.get(name).copied().unwrap_or(0);
        Self {
            name,
            lines_written: value("lines_written"),
            lines_dropped: value("lines_dropped"),
            errors: value("errors"),
            queue_lines: value("queue_lines"),
            files_replaced: value("files_replaced"),
            waiting_for_disk: value("waiting_for_disk"),
            rejections: value("rejections"),
            rejected_alerts: value("rejected_alerts"),
            dead_letters_written: value("dead_letters_written"),
            dead_letters: value("dead_letters"),
        }
    }

    /// Returns the values that people need at each look, with their names.
    pub fn usual_values(&self) -> [(&'static str, u64); 4] {
        [
            ("lines written", self.lines_written),
            ("lines dropped", self.lines_dropped),
            ("errors", self.errors),
            ("queue lines", self.queue_lines),
        ]
    }

    /// Returns the values of rare events, with their names.
    pub fn rare_values(&self) -> [(&'static str, u64); 6] {
        [
            ("files replaced", self.files_replaced),
            ("waiting for disk", self.waiting_for_disk),
            ("rejections", self.rejections),
            ("rejected alerts", self.rejected_alerts),
            ("dead letters written", self.dead_letters_written),
            ("dead letters", self.dead_letters),
        ]
    }
}
