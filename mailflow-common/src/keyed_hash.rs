//! Keyed hash of flows and sources: their places in the flow table and in the source limit.
//!
//! The hash is multilinear over 32-bit words with 64-bit keys, modulo 2^64, of which the high 32 bits are used
//! (D. Lemire and O. Kaser, "Strongly Universal String Hashing is Fast", The Computer Journal 57(11), 2014). Two
//! such hashes with independent keys make 64 bits. For keys drawn at random the family is strongly universal: the
//! hashes of any two different inputs, chosen without knowledge of the keys, are independent and uniform. So two
//! flows have the same 64 bits with a probability of 2^-64, and the same one of `n` sets with 1/`n`, for every
//! difference between them. No difference collides for a larger share of the keys.
//!
//! A plain multiplication of 64-bit words does not have this property: low bits of a product do not depend on high
//! bits of its factors. Here a word has 32 bits and its key 64, and only the high half of the sum is used.
//!
//! The bound is one against senders of packets, as a hash is not visible from outside. Nothing else depends on it:
//! a flow is found by its whole key, and two flows with equal hashes both have an entry.

use crate::{
    Address,
    table_key::{FlowTableKey, KeyRemainder},
};

/// Words of a flow: those of [`FlowTableKey`], then those of [`KeyRemainder`].
const FLOW_WORDS: usize = FlowTableKey::WORDS + KeyRemainder::WORDS;
/// Words of a source's address.
const SOURCE_WORDS: usize = 4;

/// Keys of two multilinear hashes over `N - 1` words: for each hash the summand, then a factor for each word.
type Multilinear<const N: usize> = [[u64; N]; 2];

/// Keys by which the tables place flows and sources. The agent draws them when it makes the tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKeys {
    flow: Multilinear<{ 1 + FLOW_WORDS }>,
    source: Multilinear<{ 1 + SOURCE_WORDS }>,
}

impl HashKeys {
    /// Number of keys.
    pub const WORDS: usize = size_of::<Self>() / size_of::<u64>();
    /// All zeros: all flows have one hash, and so do all sources. For tests of collisions.
    pub const ZERO: Self = Self { flow: [[0; 1 + FLOW_WORDS]; 2], source: [[0; 1 + SOURCE_WORDS]; 2] };

    /// Keys of the words that `draw` returns, in the order of [`HashKeys::words`].
    pub fn draw(mut draw: impl FnMut() -> u64) -> Self {
        let mut keys = Self::ZERO;
        keys.flow.as_flattened_mut().iter_mut().for_each(|key| *key = draw());
        keys.source.as_flattened_mut().iter_mut().for_each(|key| *key = draw());
        keys
    }

    /// The keys as words, to be kept with the tables.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.flow.as_flattened().iter().chain(self.source.as_flattened()).copied()
    }

    /// Returns the 64-bit hash of a flow; `rest` is not read for IPv4.
    #[inline(always)]
    pub const fn flow(&self, place: &FlowTableKey, rest: &KeyRemainder) -> u64 {
        let sums = add([self.flow[0][0], self.flow[1][0]], &self.flow, 1, place.words());
        if !place.v6() {
            return spread(sums);
        }
        spread(add(sums, &self.flow, 1 + FlowTableKey::WORDS, rest.words()))
    }

    /// Returns the same hash as [`HashKeys::flow`] for a place that is IPv4's for certain.
    #[inline(always)]
    pub const fn flow_v4(&self, place: &FlowTableKey) -> u64 {
        spread(add([self.flow[0][0], self.flow[1][0]], &self.flow, 1, place.words()))
    }

    /// Returns two 32-bit hashes of a source, independent of each other.
    #[inline(always)]
    pub const fn source(&self, source: &Address) -> [u32; 2] {
        let sums = add([self.source[0][0], self.source[1][0]], &self.source, 1, source.words());
        [(sums[0] >> 32) as u32, (sums[1] >> 32) as u32]
    }
}

/// Adds `words` to both hashes, with the keys from `first` on.
#[inline(always)]
const fn add<const N: usize, const W: usize>(
    sums: [u64; 2],
    keys: &Multilinear<N>,
    first: usize,
    words: [u32; W],
) -> [u64; 2] {
    let [mut one, mut other] = sums;
    let mut word = 0;
    while word < W {
        one = one.wrapping_add(keys[0][first + word].wrapping_mul(words[word] as u64));
        other = other.wrapping_add(keys[1][first + word].wrapping_mul(words[word] as u64));
        word += 1;
    }
    [one, other]
}

/// Returns the high halves of both sums as one word, through a bijection of 64-bit words, which leaves the bounds as
/// they are (the finaliser of A. Appleby's MurmurHash3). Without it flows whose ports are in steps would lie in the
/// sets in steps, of which some are uneven.
#[inline(always)]
const fn spread(sums: [u64; 2]) -> u64 {
    let mut hash = sums[0] >> 32 << 32 | sums[1] >> 32;
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
#[path = "keyed_hash/differentials.rs"]
mod differentials;
