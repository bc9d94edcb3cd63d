//! Checkpoint of the reader: what the next agent has to know besides the maps.

use serde::{Deserialize, Serialize};

use crate::flow_table::{conservation::TrafficSum, element::from_bytes, reader::ReaderState};
use mailflow_engine::{event::CounterDelta, flow::Flow, settings::Timeouts};

/// Checkpoint of the reader, valid for the pinned maps and this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderCheckpoint {
    /// Length of the IPv6 prefix that makes a source.
    pub prefix: u8,
    /// Calibration of the tick clock.
    pub ticks: [u64; 3],
    /// Baselines: key, and the counts of its entry at the start of its current flow.
    pub baselines: Vec<(Vec<u8>, Vec<u8>)>,
    /// Counts of superseded and evicted flows.
    pub ended: [u64; 4],
    /// Counts of evicted sources.
    pub overflow: [u64; 4],
    /// Flows that were open in older maps, with their counts then.
    pub migrated: Vec<Flow>,
    /// Older maps that were read and may still exist.
    pub read_generations: Vec<u32>,
}

/// Restores the state of the reader.
pub(crate) fn restore(state: &mut ReaderState, checkpoint: &ReaderCheckpoint, timeouts: &Timeouts) {
    let traffic = |[packets, bytes, down_packets, down_bytes]: [u64; 4]| TrafficSum {
        up: CounterDelta { packets, bytes },
        down: CounterDelta { packets: down_packets, bytes: down_bytes },
    };
    let baselines = checkpoint
        .baselines
        .iter()
        .filter_map(|(key, baseline)| Some((from_bytes(key)?, from_bytes(baseline)?)));
    state.baselines = baselines.collect();
    state.audit.restore(traffic(checkpoint.ended), traffic(checkpoint.overflow));
    for flow in &checkpoint.migrated {
        state.migrated.add(flow.clone(), timeouts);
    }
    state.read_generations.clone_from(&checkpoint.read_generations);
}
