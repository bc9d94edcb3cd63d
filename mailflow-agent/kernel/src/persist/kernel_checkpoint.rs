//! Checkpoint of the reader: what the next agent has to know besides the maps.

use crate::flow_table::{conservation::Sum, element::unpack, reader::Book};
use mailflow_engine::{event::Gain, flow::Flow, settings::Timeouts};

/// Checkpoint of the reader, valid for the pinned maps and this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Length of the IPv6 prefix that makes a source.
    pub prefix: u8,
    /// Calibration of the tick clock.
    pub ticks: [u64; 3],
    /// Baselines: key, and the counts of its entry at the start of its current flow.
    pub bases: Vec<(Vec<u8>, Vec<u8>)>,
    /// Counts of superseded and evicted flows.
    pub retired: [u64; 4],
    /// Counts of evicted sources.
    pub overflow: [u64; 4],
    /// Flows that were open in older maps, with their counts then.
    pub carried: Vec<Flow>,
    /// Older maps that were read and may still exist.
    pub read: Vec<u32>,
}

/// Restores the state of the reader.
pub(crate) fn resume(book: &mut Book, kept: &Kept, timeouts: &Timeouts) {
    let sum = |[packets, bytes, down_packets, down_bytes]: [u64; 4]| Sum {
        up: Gain { packets, bytes },
        down: Gain { packets: down_packets, bytes: down_bytes },
    };
    let bases = kept.bases.iter().filter_map(|(key, base)| Some((unpack(key)?, unpack(base)?)));
    book.bases = bases.collect();
    book.held.resume(sum(kept.retired), sum(kept.overflow));
    for flow in &kept.carried {
        book.carried.add(flow.clone(), timeouts);
    }
    book.read.clone_from(&kept.read);
}
