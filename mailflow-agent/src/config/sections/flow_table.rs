//! `flow_table`: capacities of the kernel's tables.

use crate::config::{
    diagnostics::Collector,
    yaml::{
        get::{At, Fields},
        values::number,
    },
};

/// The kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTable {
    /// Flows that are counted at the same time.
    pub flows: u32,
    /// Sources that are counted beyond that.
    pub overflow: u32,
    /// How much of `flows` one source may hold.
    pub share_percent: u32,
    /// How much of `flows` and of `overflow` clients alone may fill.
    pub half_open_percent: u32,
}

impl FlowTable {
    /// Most flows of one source.
    pub fn flows_per_source(&self) -> u32 {
        let share = u64::from(self.flows) * u64::from(self.share_percent) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }
}

pub(crate) fn flow_table(at: &At<'_>, faults: &mut Collector) -> Option<FlowTable> {
    Fields::read(at, faults, |fields| {
        let mut field = |key, range| fields.needed(key, |at, faults| number(at, faults, range));
        let (flows, overflow) = (field("flows", FLOWS), field("overflow_sources", FLOWS));
        let share = field("source_share_percent", 1..=100);
        let half_open = field("half_open_percent", 1..=100);
        Some(FlowTable {
            flows: flows?,
            overflow: overflow?,
            share_percent: share?,
            half_open_percent: half_open?,
        })
    })
}

/// Capacity of the flow table; the kernel allocates all of it at start.
pub(crate) const FLOWS: std::ops::RangeInclusive<u32> = 1..=16_777_216;
