//! How many sets a flow table has.

use mailflow_common::BUCKET_SLOTS;

use crate::host::kernel_version::KernelVersion;

/// Tables of fewer flows than this have no sets: they are small enough for the cache as they are.
const LEAST: u32 = 8_192;

/// How the flow table is made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Its sets.
    pub(crate) sets: u32,
    /// How many flows may lie beside them.
    pub(crate) beside: u32,
}

impl Shape {
    /// What holds so many flows on this kernel.
    ///
    /// Flows fall into the sets by chance: where there are as many as all sets' ways, 14.9 % find their set full
    /// (Poisson). There is room for 20 % beside the sets.
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
