//! What comes of a line of a flow log.

use super::fault::Fault;
use mailflow_engine::flow::FlowRecord;

/// What comes of a line; `None` where its ports are not watched.
pub(crate) type Found = Result<Option<Entry>, Fault>;

/// A record from a log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The record.
    pub record: FlowRecord,
    /// Whose it is.
    pub origin: Origin,
}

/// Whose record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// mailflow's own.
    Mailflow,
    /// Suricata's.
    Suricata,
    /// Zeek's.
    Zeek,
}

impl Origin {
    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Origin::Mailflow => "mailflow",
            Origin::Suricata => "Suricata",
            Origin::Zeek => "Zeek",
        }
    }
}

/// Why a line that can be read has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// It is of another event type, or of another log than one of connections.
    OtherEvent,
    /// It is one of Suricata's `netflow` events, which hold one direction each.
    OneWay,
    /// It is a flow to no watched port, or of neither TCP nor UDP: the agent would not count it.
    NotWatched,
}

/// What comes of a line.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all lines are records: a box would allocate for each of them"
)]
#[derive(Clone, Debug)]
pub enum Line {
    /// A record.
    Entry(Entry),
    /// None.
    Skipped(Skipped),
}
