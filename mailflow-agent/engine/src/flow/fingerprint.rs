//! What a flow goes by in the table.

use std::hash::{BuildHasher, Hash, RandomState};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::record::Flow;

/// A flow's name: 96 bits of hash of its key and its beginning. Another beginning on the same key is
/// another flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlowFingerprint {
    /// Not `u64::MAX`.
    pub(crate) high: u64,
    pub(crate) low: u32,
}

/// Gives names: SipHash-1-3 with a key of this process (J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input
/// PRF", 2012), of which 96 bits are used. A sender of packets that does not know the key finds no two flows that share
/// one with a better chance than by guessing.
///
/// A new flow has the name of one of 2^22 others with a probability of 2^-74: once in 2^-74 * 100,000 a
/// second, that is in six thousand million years.
#[derive(Clone, Debug)]
pub(crate) struct FingerprintHasher {
    seeds: [u64; 2],
}

impl Default for FingerprintHasher {
    fn default() -> Self {
        let random = || RandomState::new().hash_one(0);
        Self::of_seeds([random(), random()])
    }
}

impl FingerprintHasher {
    /// Those of another process, whose seeds these are.
    pub(crate) fn of_seeds(seeds: [u64; 2]) -> Self {
        Self { seeds }
    }

    /// What to give them by again.
    pub(crate) fn seeds(&self) -> [u64; 2] {
        self.seeds
    }

    pub(crate) fn of(&self, flow: &Flow) -> FlowFingerprint {
        let mut hasher = SipHasher13::new_with_keys(self.seeds[0], self.seeds[1]);
        (flow.key, flow.first).hash(&mut hasher);
        let hash = hasher.finish128();
        FlowFingerprint { high: hash.h1.min(u64::MAX - 1), low: hash.h2 as u32 }
    }
}
