//! Snapshot of all maps.

use mailflow_engine::flow::{Flow, SourceOverflow, SupersededFlow};

/// Contents of all maps at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Superseded flows, in order for each 5-tuple.
    pub superseded: Vec<SupersededFlow>,
    /// Flows in the table.
    pub flows: Vec<Flow>,
    /// Sources in the overflow map.
    pub overflow: Vec<SourceOverflow>,
}
