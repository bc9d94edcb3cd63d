//! Match of a rule: conditions on single flows.

use mailflow_common::App;
use serde::Serialize;

use crate::{
    checkpoint::codec,
    flow::{quantity::Quantity, service::Service},
    network::AddressSet,
};

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Match of a rule. A flow must fulfil every clause. Its serialised form identifies it in checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Match {
    /// Client.
    pub source: AddressSet,
    /// Server.
    pub destination: AddressSet,
    /// Server ports.
    pub ports: Vec<u16>,
    /// Services by which the rule names ports. All of their ports are in `ports`.
    #[serde(skip)]
    pub services: Vec<Service>,
    /// Applications. `App::Unseen` always matches, as the port decides then.
    #[serde(serialize_with = "codec::apps::serialize")]
    pub apps: Vec<App>,
    /// Transport protocols.
    pub protocols: Vec<Transport>,
    /// Size test.
    pub size: Option<SizeTest>,
    /// True if the flow must have a SYN and a SYN-ACK.
    pub sessions_only: bool,
    /// Bounds on the flow's quantities.
    pub bounds: Vec<Bound>,
    /// Hours of the week in which the last packet must lie.
    pub hours: Option<Hours>,
}

/// Bounds on a quantity of a flow. With an upper bound, a flow is evaluated when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// Quantity.
    pub of: Quantity,
    /// Lower bound.
    pub at_least: u64,
    /// Upper bound.
    pub at_most: Option<u64>,
    /// Upper bound for encrypted applications; `at_most` applies if `None`.
    pub at_most_tls: Option<u64>,
}

/// Hours of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hours {
    /// Days on which the hours begin, as bits; Monday is bit 0.
    pub days: u8,
    /// First minute of the day, 0 to 1439.
    pub from: u16,
    /// Minute of the day at which the hours end, 1 to 1440. If it is not after `from`, the hours end on the next
    /// day.
    pub to: u16,
    /// Offset of local time from UTC, in seconds.
    pub utc_offset: i32,
}

/// Byte count of a size test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Layer {
    /// IP total length.
    L3,
    /// TCP or UDP payload.
    Payload,
}

/// Kind of a size test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum SizeKind {
    /// Bytes per packet, both directions: `bytes >= up * packets` with packets > 0.
    Ratio,
    /// Packets and bytes, both directions: `packets >= up` and `bytes >= up`.
    Count,
    /// Ratio or count.
    Either,
    /// Ratio over the packets with payload.
    DataRatio,
    /// Ratio of the direction from client to server only.
    UpOnly,
}

/// Size test, with a threshold for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct SizeTest {
    /// Kind of the test.
    pub kind: SizeKind,
    /// Byte count that the test uses.
    pub layer: Layer,
    /// Threshold from client to server.
    pub up: u64,
    /// Threshold from server to client.
    pub down: u64,
}
