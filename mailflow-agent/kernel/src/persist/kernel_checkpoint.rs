//! What the agent knows of the tables beside what is in them, for the agent after it.

use crate::{
    flow_table::{conservation::Sum, element::unpack, reader::Book},
    options::SilenceLimits,
};
use mailflow_engine::{event::Gain, flow::Flow};

/// What belongs to pinned tables, and is valid for them and this boot of the machine alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The IPv6 prefix that makes a source.
    pub prefix: u8,
    /// How ticks lie on the clock.
    pub ticks: [u64; 3],
    /// Of tuples that were used again: key, and the entry's sums when the flow before was finished.
    pub bases: Vec<(Vec<u8>, Vec<u8>)>,
    /// Packets and bytes, up and down, of flows that were finished or taken out ...
    pub retired: [u64; 4],
    /// ... and of sources whose overflow was taken out.
    pub overflow: [u64; 4],
    /// Flows that were open in tables before these, as they were then.
    pub carried: Vec<Flow>,
    /// Those tables that were read, as far as they may still be there.
    pub read: Vec<u32>,
}

/// Goes on with a book where another agent stopped.
pub(crate) fn resume(book: &mut Book, kept: &Kept, limits: &SilenceLimits) {
    let sum = |[packets, bytes, down_packets, down_bytes]: [u64; 4]| Sum {
        up: Gain { packets, bytes },
        down: Gain { packets: down_packets, bytes: down_bytes },
    };
    let bases = kept.bases.iter().filter_map(|(key, base)| Some((unpack(key)?, unpack(base)?)));
    book.bases = bases.collect();
    book.held.resume(sum(kept.retired), sum(kept.overflow));
    for flow in &kept.carried {
        book.carried.add(flow.clone(), limits);
    }
    book.read.clone_from(&kept.read);
}
