//! `flow_table`: capacities of the kernel's tables.

use crate::config::{
    diagnostics::DiagnosticSink,
    yaml::{
        get::{Cursor, MappingReader},
        values::number,
    },
};

/// The kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTableConfig {
    /// Flows that are counted at the same time.
    pub flows: u32,
    /// Sources that are counted beyond that.
    pub overflow: u32,
    /// How much of `flows` one source may hold.
    pub share_percent: u32,
    /// How much of `flows` and of `overflow` clients alone may fill.
    pub half_open_percent: u32,
}

impl FlowTableConfig {
    /// Most flows of one source.
    pub fn flows_per_source(&self) -> u32 {
        let share = u64::from(self.flows) * u64::from(self.share_percent) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }
}

pub(crate) fn flow_table(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<FlowTableConfig> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let mut field =
            |key, range| mapping.required(key, |cursor, diagnostics| number(cursor, diagnostics, range));
        let (flows, overflow) = (field("flows", ENTRIES_RANGE), field("overflow_sources", ENTRIES_RANGE));
        let share = field("source_share_percent", 1..=100);
        let half_open = field("half_open_percent", 1..=100);
        Some(FlowTableConfig {
            flows: flows?,
            overflow: overflow?,
            share_percent: share?,
            half_open_percent: half_open?,
        })
    })
}

/// Capacity of the flow table; the kernel allocates all of it at start.
pub(crate) const ENTRIES_RANGE: std::ops::RangeInclusive<u32> = 1..=16_777_216;
