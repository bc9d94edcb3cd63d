//! Packets and bytes that a flow gained between two readings of the flow table.

use mailflow_common::FlowKey;
use serde::{Deserialize, Serialize};

/// What one flow gained since it was last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterDelta {
    /// Packets on the wire.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// The gain of one flow in one poll; the sum of all deltas is the sum of all counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The flow.
    pub key: FlowKey,
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
    /// Newly estimated messages.
    pub messages: u64,
    /// True if this is the flow's first delta.
    pub new_flow: bool,
}
