//! The flow table's sets: an array that the agent maps into its memory, and that packets find their flow in with one
//! look at one line of the cache.
//!
//! A keyed hash of the flow's key says which set it belongs to and what its tag is. A set has room for [`WAYS`] flows.
//! Those for which it has none lie in a fallback map, under their whole key, and the set counts them: a packet looks there
//! only where there are any. So does a flow whose tag another flow of the set has.
//!
//! A way is free, or a flow's, or that of a flow on its way out. The program makes a free way a flow's, in one atomic
//! step with its tag; all that lies there is zero then, so that other CPUs may add to it at once. The agent makes a
//! flow's way one that is left, and frees it when no packet can be under way to it any more.

use crate::{Entry, Place};

/// Flows of a set: with the count of those beside it, a line of the cache.
pub const WAYS: usize = 7;

/// The tag of a way that is free. Everything else in it is zero.
pub const FREE: u64 = 0;
/// The tag of a way whose flow was taken out.
pub const LEFT: u64 = 1;
/// What every flow's tag has in common, so that it is neither of those.
const TAKEN: u64 = 2;

/// A flow in a set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// What the flow is told by, with the entry's rest. Valid once `entry.counters.first` is not zero, which is
    /// written last.
    pub place: Place,
    /// Its counters.
    pub entry: Entry,
}

const _: () = assert!(size_of::<Slot>() == 168, "the size of a flow in a set");

/// Flows whose places have something in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// The state of each way: [`FREE`], [`LEFT`], or the tag of its flow ([`tag_of`]).
    pub tags: [u64; WAYS],
    /// How many of the set's flows lie beside it.
    pub beside: u64,
    /// The flows.
    pub slots: [Slot; WAYS],
    /// Whole lines of the cache.
    pub rest: [u64; 5],
}

const _: () = assert!(size_of::<Set>() == 20 * 64, "the size of a set");

/// Sets in a row that share a word of the map of insertions: 1 there means that a flow was inserted into one of them since
/// the agent last cleared it. So the agent reads only sets that may hold flows.
pub const SETS_IN_GROUP: u32 = 64;

/// The number of groups of so many sets.
pub const fn groups_of(sets: u32) -> u32 {
    sets.div_ceil(SETS_IN_GROUP)
}

/// The tag of a flow with this hash: [`HashKeys::flow`].
///
/// [`HashKeys::flow`]: crate::HashKeys::flow
#[inline(always)]
pub const fn tag_of(hash: u64) -> u64 {
    hash | TAKEN
}

/// The number of a tag's set, of so many.
#[inline(always)]
pub const fn set_of(tag: u64, sets: u32) -> u32 {
    // The high half, as a part of the whole (D. Lemire, Fast Random Integer Generation in an Interval).
    (((tag >> 32) * sets as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HashKeys, PROTOCOL_TCP, Scope, Vlans};

    fn place(host: u32, port: u16) -> Place {
        let scope = Scope::new(Vlans::default(), PROTOCOL_TCP, false);
        Place::v4([host.to_be(), 0x0a00_0001_u32.to_be()], [port, 25], scope)
    }

    /// Neighbours in address and port, as clients are, fill the sets as evenly as chance does: of the flows of a
    /// table that is full, those of sets with more than their ways are 14.9 % (Poisson, 7 on average).
    #[test]
    fn neighbours_spread_over_the_sets() {
        const SETS: u32 = 1_024;
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let keys = HashKeys::draw(|| random.u64(..));
            let mut filled = [0_u32; SETS as usize];
            for flow in 0..SETS * WAYS as u32 {
                let place = place(0xc0a8_0000 | flow >> 5, 40_000 + (flow & 31) as u16);
                let tag = tag_of(keys.flow_v4(&place));
                assert!(tag > LEFT);
                filled[set_of(tag, SETS) as usize] += 1;
            }
            let beside: u32 = filled.iter().map(|filled| filled.saturating_sub(WAYS as u32)).sum();
            let share = f64::from(beside) / f64::from(SETS * WAYS as u32);
            assert!((0.12..0.18).contains(&share), "seed {seed}: {share}");
        }
    }
}
