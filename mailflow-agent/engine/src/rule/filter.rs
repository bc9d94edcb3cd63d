//! Which flows a rule counts.

use mailflow_common::App;

use crate::{
    flow::{quantity::Quantity, service::Service},
    network::AddressSet,
};

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which flows count; every clause must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The client.
    pub source: AddressSet,
    /// The server.
    pub destination: AddressSet,
    /// Server ports.
    pub ports: Vec<u16>,
    /// Services all of whose ports are in `ports`, as the rule names them.
    pub services: Vec<Service>,
    /// Applications; `App::Unseen` always matches, as the port decides.
    pub apps: Vec<App>,
    /// Transport protocols.
    pub protocols: Vec<Transport>,
    /// Size test, if any.
    pub size: Option<SizeTest>,
    /// Only sessions: a SYN was answered by a SYN-ACK.
    pub sessions_only: bool,
    /// Bounds on a flow's counters.
    pub bounds: Vec<Bound>,
    /// The hours of the week at which the last packet must lie, if not any.
    pub hours: Option<Hours>,
}

/// Bounds on one counter of a flow. A flow that may still pass an upper bound is judged when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The counter.
    pub of: Counter,
    /// At least this.
    pub at_least: u64,
    /// At most this.
    pub at_most: Option<u64>,
    /// At most this, where the application is encrypted; `at_most` if not given.
    pub at_most_tls: Option<u64>,
}

/// A counter of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// One that can be summed as well.
    Quantity(Quantity),
    /// Packets with payload, client to server.
    DataPacketsUp,
    /// Packets with payload, server to client.
    DataPacketsDown,
}

/// Hours of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// The days on which the hours begin, a bit each; Monday is 1.
    pub days: u8,
    /// Minute of the day at which they begin, 0 to 1439.
    pub from: u16,
    /// Minute of the day before which they end, 1 to 1440; where it is not after `from`, on the next day.
    pub to: u16,
    /// Seconds that the clock on the wall is ahead of UTC.
    pub utc_offset: i32,
}

/// Which byte count a size test looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// IP total length.
    L3,
    /// TCP or UDP payload.
    Payload,
}

/// The forms of the size test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SizeKind {
    /// Bytes per packet, both directions: `bytes >= up * packets` with packets > 0.
    Ratio,
    /// Packets and bytes, both directions: `packets >= up` and `bytes >= up`.
    Count,
    /// Ratio or count.
    Either,
    /// Ratio over the packets that carried payload.
    DataRatio,
    /// Ratio of the up direction alone.
    UpOnly,
}

/// The size test: a threshold for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SizeTest {
    /// Which form.
    pub kind: SizeKind,
    /// Which bytes.
    pub layer: Layer,
    /// Threshold of client to server.
    pub up: u64,
    /// Threshold of server to client.
    pub down: u64,
}
