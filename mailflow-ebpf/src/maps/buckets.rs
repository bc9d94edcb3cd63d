//! Buckets of the flow table: see [`Bucket`].

use core::arch::asm;

use mailflow_common::{
    BUCKET_SLOTS, BUCKETS_PER_GROUP, Bucket, BucketSlot, EMPTY, FlowCounters, FlowTableKey, KeyRemainder,
    MapEntry, bucket_index, tag_of,
};

use super::{
    atomic::{add32, add64, sub64},
    definitions::{BUCKET_INSERTIONS, BUCKETS},
    settings::{bucket_count, source_limit},
};

/// Attempts to insert a flow into its bucket while other flows take the slot first. After that it goes to the
/// fallback map.
const MAX_INSERT_ATTEMPTS: u32 = 3;

/// Bucket of a key, with the tag of the key.
#[derive(Clone, Copy)]
pub(super) struct BucketRef {
    /// Number of the bucket.
    pub(super) number: u32,
    set: *mut Bucket,
    tag: u64,
}

/// Result of an insertion.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InsertOutcome {
    /// The flow has a new slot.
    Inserted,
    /// The flow has a slot already.
    Exists,
    /// The bucket is full, or another flow has the same tag.
    Full,
}

/// Returns the bucket of a key; `None` if the table has no buckets. `rest` is null if the key is IPv4 for
/// certain.
#[inline(always)]
pub(super) unsafe fn bucket_of(place: *const FlowTableKey, rest: *const KeyRemainder) -> Option<BucketRef> {
    let sets = bucket_count();
    if sets == 0 {
        return None;
    }
    // SAFETY: the caller's; keys are words that are only ever written whole.
    let hash = unsafe {
        let keys = &(*source_limit()).keys;
        if rest.is_null() { keys.flow_v4(&*place) } else { keys.flow(&*place, &*rest) }
    };
    let tag = tag_of(hash);
    let number = bucket_index(tag, sets);
    let set = BUCKETS.get_ptr_mut(number)?;
    let bucket_of = BucketRef { number, set, tag };
    // SAFETY: an element of an array.
    unsafe { bucket_of.prefetch() };
    Some(bucket_of)
}

impl BucketRef {
    /// Returns the slot of the flow; [`BUCKET_SLOTS`] if it has none. `rest` is null if the key is IPv4 for certain.
    #[inline(always)]
    pub(super) unsafe fn find_slot(self, place: *const FlowTableKey, rest: *const KeyRemainder) -> usize {
        // SAFETY: an element of an array; the rest is the caller's.
        unsafe {
            let way = self.slot_with_tag(self.tag);
            let slot = slot(self.set, way);
            if slot.is_null() {
                return BUCKET_SLOTS;
            }
            if holds_flow(slot, place, rest) { way } else { BUCKET_SLOTS }
        }
    }

    /// Returns the counters in a slot; null if `way` is out of range.
    #[inline(always)]
    pub(super) unsafe fn counters(self, way: usize) -> *mut FlowCounters {
        // SAFETY: an element of an array.
        unsafe { counters_in(self.set, way) }
    }

    /// Returns true if flows of this bucket are in the fallback map.
    #[inline(always)]
    pub(super) unsafe fn has_fallback_entries(self) -> bool {
        // SAFETY: an element of an array.
        unsafe { (&raw const (*self.set).fallback).read_volatile() != 0 }
    }

    /// Increments the bucket's fallback count. Call before inserting into `FLOWS`, so that a concurrent
    /// lookup never misses the entry.
    #[inline(always)]
    pub(super) unsafe fn increment_fallback(self) {
        // SAFETY: an element of an array.
        unsafe { add64(&raw mut (*self.set).fallback, 1) }
    }

    /// Decrements the bucket's fallback count. Call after removing from `FLOWS`.
    #[inline(always)]
    pub(super) unsafe fn decrement_fallback(self) {
        // SAFETY: an element of an array.
        unsafe { sub64(&raw mut (*self.set).fallback, 1) }
    }

    /// Inserts a flow into the bucket.
    ///
    /// Two CPUs that insert the same flow choose the same slot. A CPU that sees another slot free, because
    /// the first CPU has taken the first, finds the tag of the flow: it looks for it after it has chosen. If
    /// a slot is freed between the two choices the flow gets two slots, and the agent merges them.
    ///
    /// A flow whose tag another flow of the bucket has is refused: a tag identifies at most one flow.
    #[inline(always)]
    pub(super) unsafe fn insert(self, place: *const FlowTableKey, entry: *const MapEntry) -> InsertOutcome {
        // SAFETY: an element of an array, whose slots are zero where they are free; the rest is the caller's.
        unsafe {
            let mut tries = 0;
            while tries < MAX_INSERT_ATTEMPTS {
                let way = self.free_slot();
                let own = slot(self.set, self.slot_with_tag(self.tag));
                if !own.is_null() {
                    return if holds_flow(own, place, &raw const (*entry).remainder) {
                        InsertOutcome::Exists
                    } else {
                        InsertOutcome::Full
                    };
                }
                let slot = slot(self.set, way);
                if slot.is_null() {
                    return InsertOutcome::Full;
                }
                let tag = (&raw mut (*self.set).tags).cast::<u64>().add(bounded(way));
                let found = compare_exchange(tag, EMPTY, self.tag);
                if found == EMPTY {
                    write_entry(slot, place, entry);
                    self.mark_group();
                    return InsertOutcome::Inserted;
                }
                if found == self.tag {
                    return if holds_flow(slot, place, &raw const (*entry).remainder) {
                        InsertOutcome::Exists
                    } else {
                        InsertOutcome::Full
                    };
                }
                // Another flow was faster.
                tries += 1;
            }
            InsertOutcome::Full
        }
    }

    /// Marks the group of this bucket for the agent, which then reads it at its next poll.
    ///
    /// The agent clears the word before it reads the tags. The tag was written before by a
    /// compare-and-exchange, which is a full barrier (LKMM): the agent sees the flow now, or the word at its
    /// next poll. A word that is set is not written again, so the cache line stays shared.
    #[inline(always)]
    unsafe fn mark_group(self) {
        if let Some(word) = BUCKET_INSERTIONS.get_ptr_mut(self.number / BUCKETS_PER_GROUP) {
            // SAFETY: an element of an array, an aligned word that is only ever written whole.
            unsafe {
                if word.read_volatile() == 0 {
                    word.write_volatile(1);
                }
            }
        }
    }

    /// Returns the slot that the flow gets if it is free.
    #[inline(always)]
    fn preferred_slot(self) -> usize {
        ((self.tag & 0xffff) as usize * BUCKET_SLOTS) >> 16
    }

    /// Prefetches the cache lines of the preferred slot, so that they arrive together with the tags.
    #[inline(always)]
    unsafe fn prefetch(self) {
        // SAFETY: an element of an array, and a slot of it: words of it, the last of which is a line before its end.
        unsafe {
            let slot =
                (&raw const (*self.set).slots).cast::<BucketSlot>().add(self.preferred_slot()).cast::<u64>();
            slot.read_volatile();
            slot.add(size_of::<BucketSlot>() / 2 / size_of::<u64>()).read_volatile();
        }
    }

    /// Returns a free slot; [`BUCKET_SLOTS`] if there is none.
    #[inline(always)]
    unsafe fn free_slot(self) -> usize {
        let choice = self.preferred_slot();
        // SAFETY: an element of an array.
        unsafe {
            let tag = (&raw const (*self.set).tags).cast::<u64>().add(choice).read_volatile();
            if tag == EMPTY { choice } else { self.slot_with_tag(EMPTY) }
        }
    }

    /// Returns the last slot with this tag; [`BUCKET_SLOTS`] if there is none. Branch-free: the slot is not
    /// predictable, and the verifier would follow each branch.
    #[inline(always)]
    unsafe fn slot_with_tag(self, tag: u64) -> usize {
        let mut found = BUCKET_SLOTS as u64;
        let mut way = 0;
        while way < BUCKET_SLOTS {
            // SAFETY: an element of an array.
            let other = unsafe { (&raw const (*self.set).tags).cast::<u64>().add(way).read_volatile() } ^ tag;
            let mut negative = other;
            // As an instruction of our own: LLVM would make a branch of what follows.
            // SAFETY: one instruction on a register.
            unsafe {
                asm!("{n} = -{n}", n = inout(reg) negative, options(pure, nomem, nostack, preserves_flags));
            }
            // All ones where the tags differ.
            let differs = ((other | negative) as i64 >> 63) as u64;
            found = found & differs | way as u64 & !differs;
            way += 1;
        }
        found as usize
    }
}

/// Returns the counters in a slot of a bucket; null if either is out of range.
#[inline(always)]
pub(super) unsafe fn counters(number: u32, way: usize) -> *mut FlowCounters {
    let Some(set) = BUCKETS.get_ptr_mut(number) else { return core::ptr::null_mut() };
    // SAFETY: an element of an array.
    unsafe { counters_in(set, way) }
}

#[inline(always)]
unsafe fn counters_in(set: *mut Bucket, way: usize) -> *mut FlowCounters {
    // SAFETY: the caller's: an element of an array, and a slot of it.
    unsafe {
        let slot = slot(set, way);
        if slot.is_null() { core::ptr::null_mut() } else { &raw mut (*slot).entry.counters }
    }
}

#[inline(always)]
unsafe fn slot(set: *mut Bucket, way: usize) -> *mut BucketSlot {
    let way = bounded(way);
    if way >= BUCKET_SLOTS {
        return core::ptr::null_mut();
    }
    // SAFETY: an element of an array, and a slot of it.
    unsafe { (&raw mut (*set).slots).cast::<BucketSlot>().add(way) }
}

/// Returns true if a slot with the tag of a flow is the slot of that flow. `rest` is null if the key is IPv4
/// for certain.
///
/// Until the inserting CPU has written the key, the tag decides. For two flows with the same tag (one pair in
/// 2^62) that begin at the same moment, the packet is counted to the other flow.
#[inline(always)]
unsafe fn holds_flow(slot: *const BucketSlot, place: *const FlowTableKey, rest: *const KeyRemainder) -> bool {
    // SAFETY: the caller's: a slot of an element of an array, and this CPU's own.
    unsafe {
        let same = (*slot).key.is(&*place)
            && (rest.is_null() || !(*place).v6() || (*slot).entry.remainder.is(&*rest));
        same || (&raw const (*slot).entry.counters.first).read_volatile() == 0
    }
}

/// Returns the same number, with a bound that the verifier can see.
#[inline(always)]
fn bounded(way: usize) -> usize {
    let mut bounded = way;
    // SAFETY: one instruction on a register.
    unsafe {
        asm!("{w} &= {m}", w = inout(reg) bounded, m = const BUCKET_SLOTS, options(pure, nomem, nostack, preserves_flags));
    }
    bounded
}

/// Writes a new flow into a zeroed slot. Other CPUs may add to its counters at the same time.
#[inline(always)]
unsafe fn write_entry(slot: *mut BucketSlot, place: *const FlowTableKey, entry: *const MapEntry) {
    // SAFETY: the caller's: an element of an array, and this CPU's own.
    unsafe {
        (*slot).key = *place;
        if (*place).v6() {
            (*slot).entry.remainder = (*entry).remainder;
        }
        let (new, known) = (&raw mut (*slot).entry.counters, &raw const (*entry).counters);
        (*new).mac = (*known).mac;
        (*new).interface = (*known).interface;
        if (*known).facts.syn != 0 {
            (*new).facts.syn = 1;
            (*new).facts.seen |= (*known).facts.seen;
            (*new).isn_up = (*known).isn_up;
            (*new).up.last = (*known).up.last;
            add32(&raw mut (*new).up.bare_packets, (*known).up.bare_packets);
            add64(&raw mut (*new).up.bare_bytes, (*known).up.bare_bytes);
        }
        (*new).facts.inspected |= (*known).facts.inspected;
        // A CPU that reads this word also reads the rest.
        compare_exchange(&raw mut (*new).first, 0, (*known).first);
    }
}

/// Writes `new` if the word is `old`, atomically, and returns the previous value (BPF_CMPXCHG, Linux 5.12).
/// The agent removes these instructions on older kernels.
#[inline(always)]
unsafe fn compare_exchange(at: *mut u64, old: u64, new: u64) -> u64 {
    let mut found = old;
    // SAFETY: the caller's: an aligned word inside a map element.
    unsafe {
        asm!("r0 = cmpxchg_64({p} + 0, r0, {n})", p = in(reg) at, n = in(reg) new, inout("r0") found, options(nostack));
    }
    found
}
