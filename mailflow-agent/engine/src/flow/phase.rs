//! Phase of a flow record.

use super::record::RecordReason;

/// Phase of a flow record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordPhase {
    /// Live update of an open flow, because of its gain. Not a flow record.
    Live,
    /// Record of an open flow.
    Interim,
    /// Last record of a flow.
    Final,
}

impl RecordPhase {
    /// Returns the phase of a record with this reason. A flow that is open at shutdown has not ended.
    pub(crate) fn of(reason: RecordReason) -> Self {
        match reason {
            RecordReason::Active | RecordReason::Shutdown => RecordPhase::Interim,
            RecordReason::Closed | RecordReason::Idle => RecordPhase::Final,
        }
    }
}
