//! Counter deltas of a flow between two polls (RFC 5102 delta counters).

use mailflow_common::FlowKey;
use serde::{Deserialize, Serialize};

/// Counter delta of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterDelta {
    /// Packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// Delta of one flow in one poll. The sum of a flow's deltas equals its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Key of the flow.
    pub key: FlowKey,
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
    /// Increase of the estimated messages.
    pub messages: u64,
    /// True if this is the first delta of the flow.
    pub new_flow: bool,
}
