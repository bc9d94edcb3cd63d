//! Reply to `top`.

use serde::{Deserialize, Serialize};

/// Totals of the sources with their own counters since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopSnapshot {
    /// Time of the snapshot, in seconds since the agent started.
    pub at_seconds: f64,
    /// Sources, and `other` and `retired` for sources without their own counters.
    pub rows: Vec<TopSource>,
}

/// Totals of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopSource {
    /// Address, IPv6 prefix, `other` or `retired`.
    pub source: String,
    /// Packets, client to server.
    pub packets_up: u64,
    /// IP bytes, client to server.
    pub bytes_up: u64,
    /// Packets, server to client.
    pub packets_down: u64,
    /// IP bytes, server to client.
    pub bytes_down: u64,
    /// Flows.
    pub flows: u64,
    /// Estimated messages that servers accepted.
    pub messages: u64,
    /// Flows that a rule counted, summed over the rules.
    pub matched_flows: u64,
}
