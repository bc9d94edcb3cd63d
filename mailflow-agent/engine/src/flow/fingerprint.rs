//! Fingerprints of flows, the keys of the live flow table.

use std::hash::{BuildHasher, Hash, RandomState};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::record::Flow;

/// Fingerprint of a flow: 96 bits of a keyed hash of its key and its first packet's time. Flows of one key with
/// different start times have different fingerprints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlowFingerprint {
    /// High half; never `u64::MAX`.
    pub(crate) high: u64,
    pub(crate) low: u32,
}

/// Hasher of fingerprints: SipHash-1-3 with a random key (J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast
/// short-input PRF", 2012), truncated to 96 bits. A sender of packets who does not know the key cannot find a
/// collision except by guessing.
///
/// A new flow collides with one of 2^22 others with a probability of 2^-74. At 100,000 new flows a second that is
/// one collision in six thousand million years.
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
    /// Returns the hasher with these seeds, such as those of a previous process.
    pub(crate) fn of_seeds(seeds: [u64; 2]) -> Self {
        Self { seeds }
    }

    /// Returns the seeds.
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
