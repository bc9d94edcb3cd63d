//! Size of a flow table: number of buckets, and of flows in the fallback map.

use mailflow_common::BUCKET_SLOTS;

use crate::host::kernel_version::KernelVersion;

/// Least number of flows for a table with buckets: smaller tables fit into the cache without them.
const LEAST: u32 = 8_192;

/// Sizes of a flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Number of buckets.
    pub(crate) sets: u32,
    /// Size of the fallback map.
    pub(crate) beside: u32,
}

impl Shape {
    /// Returns the sizes for this number of flows on this kernel.
    ///
    /// In a table with as many flows as slots, 14.9 % of the flows find their bucket full (Poisson). The
    /// fallback map has room for 20 %.
    pub(crate) fn of(flows: u32, version: KernelVersion) -> Self {
        if version < KernelVersion::EXCHANGE || flows < LEAST {
            return Self { sets: 0, beside: flows };
        }
        Self { sets: flows.div_ceil(BUCKET_SLOTS as u32), beside: flows / 5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tables_and_old_kernels_have_no_sets() {
        let of = |flows, version| {
            let Shape { sets, beside } = Shape::of(flows, version);
            (sets, beside)
        };
        assert_eq!(of(1_000, KernelVersion::TCX), (0, 1_000));
        assert_eq!(of(262_144, KernelVersion::FLOOR), (0, 262_144));
        assert_eq!(of(262_144, KernelVersion::TCX), (37_450, 52_428));
    }
}
