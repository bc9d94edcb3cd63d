//! Checkpoint of the flow table.

use crate::time::Time;

/// The flows as they were last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowTableCheckpoint {
    /// The last reading.
    pub now: Time,
    /// Seeds of the flows' names.
    pub seeds: [u64; 2],
    /// The living flows, by name.
    pub flows: Vec<[u64; 5]>,
}
