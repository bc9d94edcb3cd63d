//! Checkpoint of the flow table.

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// State of the live flows at the last poll.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTableCheckpoint {
    /// Time of the last poll.
    pub now: Time,
    /// Seeds of the fingerprints.
    pub seeds: [u64; 2],
    /// Fingerprint and packed counters of each live flow.
    pub flows: Vec<[u64; 5]>,
}
