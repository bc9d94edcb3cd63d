//! Snapshot of all maps.

use super::reader::Reader;
use mailflow_engine::{
    flow::SourceOverflow,
    flow::{EvictOutcome, Flow, SupersededFlow},
};

/// Contents of all maps at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Superseded flows, in order for each 5-tuple.
    pub finished: Vec<SupersededFlow>,
    /// Flows in the table.
    pub flows: Vec<Flow>,
    /// Sources in the overflow map.
    pub spilled: Vec<SourceOverflow>,
}

impl Reader for Snapshot {
    fn finished(&mut self, finished: &[SupersededFlow]) {
        self.finished.extend_from_slice(finished);
    }

    fn living(&mut self, flows: &[Flow]) -> &[Flow] {
        self.flows.extend_from_slice(flows);
        &[]
    }

    fn removed(&mut self, _: &[EvictOutcome]) {}

    fn spilled(&mut self, spilled: &[SourceOverflow]) {
        self.spilled.extend_from_slice(spilled);
    }
}
