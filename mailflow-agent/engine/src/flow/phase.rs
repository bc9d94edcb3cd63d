//! Finality of what is known of a flow.

use super::record::RecordReason;

/// How final what is known of a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordPhase {
    /// The flow is open, and was looked at because of what it gained. Not a record.
    Live,
    /// A record of an open flow.
    Interim,
    /// The flow's last record.
    Final,
}

impl RecordPhase {
    /// Of a record made for `reason`. A flow that is open when the agent stops has not ended.
    pub(crate) fn of(reason: RecordReason) -> Self {
        match reason {
            RecordReason::Active | RecordReason::Shutdown => RecordPhase::Interim,
            RecordReason::Closed | RecordReason::Idle => RecordPhase::Final,
        }
    }
}
