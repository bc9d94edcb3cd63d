//! Finality of what is known of a flow.

use super::record::RecordReason;

/// How final what is known of a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The flow is open, and was looked at because of what it gained. Not a record.
    Live,
    /// A record of an open flow.
    Open,
    /// The flow's last record.
    Ended,
}

impl Stage {
    /// Of a record made for `reason`. A flow that is open when the agent stops has not ended.
    pub(crate) fn of(reason: RecordReason) -> Self {
        match reason {
            RecordReason::Active | RecordReason::Shutdown => Stage::Open,
            RecordReason::Closed | RecordReason::Idle => Stage::Ended,
        }
    }
}
