//! What comes of a line of a flow log.

use super::error::LineError;
use mailflow_engine::flow::FlowRecord;

/// What comes of a line; `None` where its ports are not watched.
pub(crate) type ParsedRecord = Result<Option<LogRecord>, LineError>;

/// A record from a log.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// The record.
    pub record: FlowRecord,
    /// Whose it is.
    pub origin: LogOrigin,
}

/// Whose record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogOrigin {
    /// mailflow's own.
    Mailflow,
    /// Suricata's.
    Suricata,
    /// Zeek's.
    Zeek,
}

impl LogOrigin {
    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            LogOrigin::Mailflow => "mailflow",
            LogOrigin::Suricata => "Suricata",
            LogOrigin::Zeek => "Zeek",
        }
    }
}

/// Why a line that can be read has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
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
pub enum LineOutcome {
    /// A record.
    Record(LogRecord),
    /// None.
    Skipped(SkipReason),
}
