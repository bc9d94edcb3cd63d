//! Flows as the engine sees them, and the records made of them.

use std::{net::IpAddr, num::NonZeroU32};

use mailflow_common::{App, Facts, FlowKey};

use super::fields::RecordFields;
use crate::time::Time;

/// One direction of a flow, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionStats {
    /// Packets on the wire.
    pub packets: u64,
    /// IP total length of those packets.
    pub bytes: u64,
    /// TCP or UDP payload bytes.
    pub payload: u64,
    /// Packets that carried payload.
    pub data_packets: u64,
    /// IP bytes of the packets that carried payload.
    pub data_bytes: u64,
    /// The last packet; `None` when there was none.
    pub last: Option<Time>,
}

/// TCP and application facts as they are kept on disk, in the order of [`facts_of`].
pub fn facts_bytes(facts: &Facts) -> [u8; 10] {
    [
        facts.syn,
        facts.syn_ack,
        facts.fin_up,
        facts.fin_down,
        facts.reset,
        facts.seen,
        facts.first_payload_up,
        facts.first_payload_down,
        facts.upgrade,
        facts.inspected,
    ]
}

/// Facts from those bytes.
pub fn facts_of(bytes: [u8; 10]) -> Facts {
    let [
        syn,
        syn_ack,
        fin_up,
        fin_down,
        reset,
        seen,
        first_payload_up,
        first_payload_down,
        upgrade,
        inspected,
    ] = bytes;
    Facts {
        syn,
        syn_ack,
        fin_up,
        fin_down,
        reset,
        seen,
        first_payload_up,
        first_payload_down,
        upgrade,
        inspected,
    }
}

/// A flow as one snapshot of the kernel's table shows it, its times resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Addresses, ports, VLAN zone, protocol.
    pub key: FlowKey,
    /// Client to server.
    pub up: DirectionStats,
    /// Server to client.
    pub down: DirectionStats,
    /// The first packet.
    pub first: Time,
    /// Estimated messages.
    pub messages: u32,
    /// Messages the server refused after it had taken them, by its reply codes: only of sessions in the clear.
    pub rejected: u32,
    /// The client's MAC address, where there is one.
    pub mac: Option<[u8; 6]>,
    /// The kernel's number of the interface that the flow's first packet passed; `None` where it is not known.
    pub interface: Option<NonZeroU32>,
    /// TCP and application facts.
    pub facts: Facts,
}

impl Flow {
    /// The last packet of either direction.
    pub fn last(&self) -> Time {
        let last = |way: &DirectionStats| way.last.unwrap_or(Time::ZERO);
        last(&self.up).max(last(&self.down)).max(self.first)
    }

    /// The client's address.
    pub fn client(&self) -> IpAddr {
        self.key.client.ip()
    }

    /// The server's address.
    pub fn server(&self) -> IpAddr {
        self.key.server.ip()
    }
}

/// A flow that another one on the same tuple has followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupersededFlow {
    /// The flow, with its last counters.
    pub flow: Flow,
    /// The first packet of the one that followed.
    pub superseded_at: Time,
}

/// What became of a flow that had ended, when it was to be taken out of the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictOutcome {
    /// It was taken out, with the counters it was seen with.
    Evicted,
    /// Its counters are not those it was seen with any more: it stays.
    Changed,
    /// It was not there.
    Missing,
}

/// Why a record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordReason {
    /// FIN both ways or RST, and the grace over.
    Closed,
    /// No packet for the idle time.
    Idle,
    /// The flow lives on; the counters are cumulative.
    Active,
    /// The agent stopped.
    Shutdown,
}

impl RecordReason {
    /// Every reason, in an order that stays: what is kept on disk names them by their place.
    pub const ALL: [RecordReason; 4] =
        [RecordReason::Closed, RecordReason::Idle, RecordReason::Active, RecordReason::Shutdown];

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            RecordReason::Closed => "closed",
            RecordReason::Idle => "idle",
            RecordReason::Active => "active",
            RecordReason::Shutdown => "shutdown",
        }
    }
}

/// A flow record. Its event time is the flow's last packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// The flow and its cumulative counters.
    pub flow: Flow,
    /// Application class.
    pub app: App,
    /// Why the record was made.
    pub reason: RecordReason,
    /// True if every packet of the flow can be in its counters: it was seen from its SYN on, in
    /// both directions where it was answered.
    pub complete: bool,
    /// What the record tells; the counters and facts beyond that mean nothing.
    pub fields: RecordFields,
}

impl FlowRecord {
    /// Event time: the last packet.
    pub fn time(&self) -> Time {
        self.flow.last()
    }
}
