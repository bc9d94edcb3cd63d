//! Size of a flow table: number of buckets, and of flows in the fallback map.

use mailflow_common::BUCKET_SLOTS;

use crate::host::kernel_version::KernelVersion;

/// Least number of flows for a table with buckets: smaller tables fit into the cache without them.
const MIN_BUCKET_FLOWS: u32 = 8_192;
/// Size of the fallback map, in percent of the flows.
const FALLBACK_PERCENT: u64 = 19;

/// Sizes of a flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableSizing {
    /// Number of buckets.
    pub(crate) buckets: u32,
    /// Size of the fallback map.
    pub(crate) fallback: u32,
}

impl TableSizing {
    /// Returns the sizes for this number of flows on this kernel.
    ///
    /// In a table with as many flows as slots, 14.9 % of the flows find their bucket full (Poisson). The
    /// fallback map has room for 19 %, so that the table takes less than 230 B per flow.
    pub(crate) fn new(flows: u32, version: KernelVersion) -> Self {
        if version < KernelVersion::CMPXCHG || flows < MIN_BUCKET_FLOWS {
            return Self { buckets: 0, fallback: flows };
        }
        let fallback = u64::from(flows) * FALLBACK_PERCENT / 100;
        Self { buckets: flows.div_ceil(BUCKET_SLOTS as u32), fallback: fallback as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tables_and_old_kernels_have_no_buckets() {
        let sizes = |flows, version| {
            let TableSizing { buckets, fallback } = TableSizing::new(flows, version);
            (buckets, fallback)
        };
        assert_eq!(sizes(1_000, KernelVersion::TCX), (0, 1_000));
        assert_eq!(sizes(262_144, KernelVersion::MINIMUM), (0, 262_144));
        assert_eq!(sizes(262_144, KernelVersion::TCX), (37_450, 49_807));
    }
}
