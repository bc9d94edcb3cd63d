//! `flow_table`: capacities of the kernel's tables.

use crate::config::{
    diagnostics::DiagnosticSink,
    yaml::{
        get::{Cursor, MappingReader},
        values::number,
    },
};

/// Capacities of the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTableConfig {
    /// Capacity of the flow table.
    pub flows: u32,
    /// Capacity of the overflow table, in sources.
    pub overflow: u32,
    /// Maximum share of `flows` of one source, in percent.
    pub share_percent: u32,
    /// Share of `flows` and of `overflow` from which on only packets of servers insert entries, in percent.
    pub half_open_percent: u32,
}

impl FlowTableConfig {
    /// Returns the maximum number of flows of one source.
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

/// Range of the capacities. The kernel allocates all entries at the start.
pub(crate) const ENTRIES_RANGE: std::ops::RangeInclusive<u32> = 1..=16_777_216;
