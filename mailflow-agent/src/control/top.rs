//! What sources have sent.

use serde::{Deserialize, Serialize};

/// What the sources with numbers of their own have sent since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Top {
    /// When this was so, in seconds since the agent started.
    pub at_seconds: f64,
    /// The sources, and `other` and `retired` for those without numbers of their own.
    pub rows: Vec<Row>,
}

/// What a source has sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// An address, an IPv6 prefix, `other` or `retired`.
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
    /// Messages that servers seem to have accepted.
    pub messages: u64,
    /// Flows that a rule counted, summed over the rules.
    pub qualifying: u64,
}
