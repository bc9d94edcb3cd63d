//! What a flow goes by in the table.

use std::hash::BuildHasher;

use foldhash::{
    SharedSeed,
    quality::{RandomState, SeedableRandomState},
};

use super::flow::Flow;

/// A flow's name: 96 bits of hash of its key and its beginning. Another beginning on the same key is
/// another flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    /// Not `u64::MAX`.
    pub(super) high: u64,
    pub(super) low: u32,
}

/// Gives names, with seeds of this process: nobody outside can choose flows that share one.
///
/// A new flow has the name of one of 2^22 others with a probability of 2^-74: once in 2^-74 * 100,000 a
/// second, that is in six thousand million years.
#[derive(Clone, Debug)]
pub(super) struct Names {
    seeds: [u64; 2],
    high: SeedableRandomState,
    low: SeedableRandomState,
}

impl Default for Names {
    fn default() -> Self {
        let random = || RandomState::default().hash_one(0);
        Self::of_seeds([random(), random()])
    }
}

impl Names {
    /// Those of another process, whose seeds these are.
    pub(super) fn of_seeds(seeds: [u64; 2]) -> Self {
        let [high, low] = seeds.map(|seed| SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()));
        Self { seeds, high, low }
    }

    /// What to give them by again.
    pub(super) fn seeds(&self) -> [u64; 2] {
        self.seeds
    }

    pub(super) fn of(&self, flow: &Flow) -> Name {
        let key = (flow.key, flow.first);
        Name { high: self.high.hash_one(key).min(u64::MAX - 1), low: self.low.hash_one(key) as u32 }
    }
}
