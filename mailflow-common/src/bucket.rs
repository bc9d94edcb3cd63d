//! Buckets of the flow table: an array that the agent maps into its memory, and in which a packet finds its
//! flow by one cache line.
//!
//! A keyed hash of the flow key gives the bucket and the tag of a flow. A bucket has room for
//! [`BUCKET_SLOTS`] flows. Flows for which it has no room are in a fallback map under their full key, and so
//! are flows whose tag another flow of the bucket has. The bucket counts them: a packet looks into the
//! fallback map only if the count is not zero.
//!
//! A slot is empty, a flow's, or a tombstone. The program makes an empty slot a flow's by an atomic exchange
//! of its tag. The slot is all zeros then, so other CPUs may add to it at once. The agent turns the slot of
//! an evicted flow into a tombstone, and empties it when no packet can be in progress with it any more.

use crate::{FlowTableKey, MapEntry};

/// Slots of a bucket: their tags and the fallback count fill one cache line.
pub const BUCKET_SLOTS: usize = 7;

/// Tag of an empty slot, which is all zeros.
pub const EMPTY: u64 = 0;
/// Tag of a slot whose flow was evicted.
pub const TOMBSTONE: u64 = 1;
/// Bit of every tag of a flow, so that it is neither [`EMPTY`] nor [`TOMBSTONE`].
const TAKEN: u64 = 2;

/// Flow in a bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketSlot {
    /// Key of the flow, with the remainder in the entry. Valid once `entry.counters.first` is not zero, which
    /// is written last.
    pub key: FlowTableKey,
    /// Counters and key remainder.
    pub entry: MapEntry,
}

const _: () = assert!(size_of::<BucketSlot>() == 168, "the size of a slot");

/// Flows whose hashes share a bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// State of each slot: [`EMPTY`], [`TOMBSTONE`], or the tag of its flow ([`tag_of`]).
    pub tags: [u64; BUCKET_SLOTS],
    /// Number of flows of this bucket in the fallback map.
    pub fallback: u64,
    /// Slots.
    pub slots: [BucketSlot; BUCKET_SLOTS],
    /// Padding to whole cache lines.
    pub padding: [u64; 5],
}

const _: () = assert!(size_of::<Bucket>() == 20 * 64, "the size of a bucket");

/// Buckets that share a word of the map of insertions. 1 there means that a flow was inserted into one of
/// them since the agent last cleared it, so the agent reads only buckets that may hold flows.
pub const BUCKETS_PER_GROUP: u32 = 64;

/// Returns the number of groups of so many buckets.
pub const fn bucket_groups(sets: u32) -> u32 {
    sets.div_ceil(BUCKETS_PER_GROUP)
}

/// Returns the tag of a flow with this hash ([`HashKeys::flow`]).
///
/// [`HashKeys::flow`]: crate::HashKeys::flow
#[inline(always)]
pub const fn tag_of(hash: u64) -> u64 {
    hash | TAKEN
}

/// Returns the bucket of a tag.
#[inline(always)]
pub const fn bucket_index(tag: u64, sets: u32) -> u32 {
    // The high half, as a part of the whole (D. Lemire, Fast Random Integer Generation in an Interval).
    (((tag >> 32) * sets as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HashKeys, PROTOCOL_TCP, Scope, Vlans};

    fn place(host: u32, port: u16) -> FlowTableKey {
        let scope = Scope::new(Vlans::default(), PROTOCOL_TCP, false);
        FlowTableKey::v4([host.to_be(), 0x0a00_0001_u32.to_be()], [port, 25], scope)
    }

    /// Addresses and ports of real clients are close to each other. They fill the buckets as evenly as chance
    /// does: in a full table 14.9 % of the flows find their bucket full (Poisson with mean 7).
    #[test]
    fn neighbours_spread_over_the_sets() {
        const SETS: u32 = 1_024;
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let keys = HashKeys::draw(|| random.u64(..));
            let mut filled = [0_u32; SETS as usize];
            for flow in 0..SETS * BUCKET_SLOTS as u32 {
                let place = place(0xc0a8_0000 | flow >> 5, 40_000 + (flow & 31) as u16);
                let tag = tag_of(keys.flow_v4(&place));
                assert!(tag > TOMBSTONE);
                filled[bucket_index(tag, SETS) as usize] += 1;
            }
            let beside: u32 = filled.iter().map(|filled| filled.saturating_sub(BUCKET_SLOTS as u32)).sum();
            let share = f64::from(beside) / f64::from(SETS * BUCKET_SLOTS as u32);
            assert!((0.12..0.18).contains(&share), "seed {seed}: {share}");
        }
    }
}
