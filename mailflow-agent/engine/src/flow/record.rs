//! Flows as read from the flow table, and flow records.

use std::{net::IpAddr, num::NonZeroU32};

use mailflow_common::{App, Facts, FlowKey};
use serde::{Deserialize, Serialize};

use super::fields::RecordFields;
use crate::time::Time;

/// Cumulative counters of one direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionStats {
    /// Packets on the wire.
    pub packets: u64,
    /// IP total length of the packets.
    pub bytes: u64,
    /// TCP or UDP payload bytes.
    pub payload: u64,
    /// Packets with payload.
    pub data_packets: u64,
    /// IP bytes of the packets with payload.
    pub data_bytes: u64,
    /// Time of the last packet; `None` without a packet.
    pub last: Option<Time>,
}

/// Flow as one poll of the flow table shows it, with resolved times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Addresses, ports, VLAN zone and protocol.
    pub key: FlowKey,
    /// Client to server.
    pub up: DirectionStats,
    /// Server to client.
    pub down: DirectionStats,
    /// Time of the first packet.
    pub first: Time,
    /// Estimated messages.
    pub messages: u32,
    /// Messages that the server refused by a reply code after their data. Known for unencrypted sessions only.
    pub rejected: u32,
    /// MAC address of the client, if known.
    pub mac: Option<[u8; 6]>,
    /// Interface index of the first packet, if known.
    pub interface: Option<NonZeroU32>,
    /// TCP and application facts.
    pub facts: Facts,
}

impl Flow {
    /// Returns the time of the last packet of either direction.
    pub fn last(&self) -> Time {
        let last = |way: &DirectionStats| way.last.unwrap_or(Time::ZERO);
        last(&self.up).max(last(&self.down)).max(self.first)
    }

    /// Returns the address of the client.
    pub fn client(&self) -> IpAddr {
        self.key.client.ip()
    }

    /// Returns the address of the server.
    pub fn server(&self) -> IpAddr {
        self.key.server.ip()
    }
}

/// Flow that ended because a new connection uses its 5-tuple.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupersededFlow {
    /// Flow with its last counters.
    pub flow: Flow,
    /// Time of the first packet of the new connection.
    pub superseded_at: Time,
}

/// Outcome of evicting an ended flow from the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictOutcome {
    /// The flow was evicted with the observed counters.
    Evicted,
    /// The counters have changed, so the flow stays in the table.
    Changed,
    /// The flow was not in the table.
    Missing,
}

/// Reason of a flow record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RecordReason {
    /// FIN in both directions or RST, and the timeout after closing has passed.
    Closed,
    /// The idle timeout has passed.
    Idle,
    /// The flow is alive; its counters are cumulative.
    Active,
    /// The agent stopped.
    Shutdown,
}

impl RecordReason {
    /// All reasons, in a fixed order: stored data refers to them by index.
    pub const ALL: [RecordReason; 4] =
        [RecordReason::Closed, RecordReason::Idle, RecordReason::Active, RecordReason::Shutdown];

    /// Returns the name in records.
    pub const fn name(self) -> &'static str {
        match self {
            RecordReason::Closed => "closed",
            RecordReason::Idle => "idle",
            RecordReason::Active => "active",
            RecordReason::Shutdown => "shutdown",
        }
    }
}

/// Flow record. Its event time is the last packet of the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Flow with its cumulative counters.
    pub flow: Flow,
    /// Application class.
    pub app: App,
    /// Reason of the record.
    pub reason: RecordReason,
    /// True if the counters can contain every packet of the flow: its SYN was seen, and also its SYN-ACK if the
    /// server sent packets.
    pub complete: bool,
    /// Fields that the record carries. Other counters and facts are undefined.
    pub fields: RecordFields,
}

impl FlowRecord {
    /// Returns the event time: that of the last packet.
    pub fn time(&self) -> Time {
        self.flow.last()
    }
}
