//! Outcome of a line of a flow log.

use super::error::LineError;
use mailflow_engine::flow::FlowRecord;

/// Record of a line; `None` if its ports are not watched.
pub(crate) type ParsedRecord = Result<Option<LogRecord>, LineError>;

/// Record of a log.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Flow record.
    pub record: FlowRecord,
    /// Program that wrote the log.
    pub origin: LogOrigin,
}

/// Program that wrote a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogOrigin {
    /// mailflow.
    Mailflow,
    /// Suricata.
    Suricata,
    /// Zeek.
    Zeek,
}

impl LogOrigin {
    /// Returns the name of the program.
    pub const fn name(self) -> &'static str {
        match self {
            LogOrigin::Mailflow => "mailflow",
            LogOrigin::Suricata => "Suricata",
            LogOrigin::Zeek => "Zeek",
        }
    }
}

/// Reason why a valid line has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Another event type, or a log of something other than connections.
    OtherEvent,
    /// A `netflow` event of Suricata, which holds one direction.
    OneWay,
    /// A flow to a port that is not watched, or of neither TCP nor UDP: the agent would not count it.
    NotWatched,
}

/// Outcome of a line that can be read.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all lines are records: a box would allocate for each of them"
)]
#[derive(Clone, Debug)]
pub enum LineOutcome {
    /// The record of the line.
    Record(LogRecord),
    /// The reason why the line has no record.
    Skipped(SkipReason),
}
