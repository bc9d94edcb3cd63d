//! The flow table's sets: see [`Set`].

use core::arch::asm;

use mailflow_common::{
    Entry, FREE, FlowCounters, Place, Rest, SETS_IN_GROUP, Set, Slot, WAYS, set_of, tag_of,
};

use super::{
    atomic::{add32, add64, sub64},
    definitions::{INSERTED, SETS},
    settings::{set_count, source_limit},
};

/// How often a new flow tries for a way that another one takes before it, until it lies beside the set.
const MAX_INSERT_ATTEMPTS: u32 = 3;

/// A place's set, and its tag there.
#[derive(Clone, Copy)]
pub(super) struct BucketRef {
    /// The set's number.
    pub(super) number: u32,
    set: *mut Set,
    tag: u64,
}

/// What became of a flow that was to get a way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InsertOutcome {
    /// It has one.
    Inserted,
    /// It had one already.
    Exists,
    /// There is none for it.
    Full,
}

/// The bucket_of of a flow; `None` where there are no sets. `rest` is null where it is of IPv4 for certain.
#[inline(always)]
pub(super) unsafe fn bucket_of(place: *const Place, rest: *const Rest) -> Option<BucketRef> {
    let sets = set_count();
    if sets == 0 {
        return None;
    }
    // SAFETY: the caller's; keys are words that are only ever written whole.
    let hash = unsafe {
        let keys = &(*source_limit()).keys;
        if rest.is_null() { keys.flow_v4(&*place) } else { keys.flow(&*place, &*rest) }
    };
    let tag = tag_of(hash);
    let number = set_of(tag, sets);
    let set = SETS.get_ptr_mut(number)?;
    let bucket_of = BucketRef { number, set, tag };
    // SAFETY: an element of an array.
    unsafe { bucket_of.prefetch() };
    Some(bucket_of)
}

impl BucketRef {
    /// The flow's way; [`WAYS`] where it has none. `rest` is null where it is of IPv4 for certain.
    #[inline(always)]
    pub(super) unsafe fn find_slot(self, place: *const Place, rest: *const Rest) -> usize {
        // SAFETY: an element of an array; the rest is the caller's.
        unsafe {
            let way = self.slot_with_tag(self.tag);
            let slot = slot(self.set, way);
            if slot.is_null() {
                return WAYS;
            }
            if holds_flow(slot, place, rest) { way } else { WAYS }
        }
    }

    /// The counters of the flow that has this way; null where it is none.
    #[inline(always)]
    pub(super) unsafe fn counters(self, way: usize) -> *mut FlowCounters {
        // SAFETY: an element of an array.
        unsafe { counters_in(self.set, way) }
    }

    /// Whether flows of this set lie beside it.
    #[inline(always)]
    pub(super) unsafe fn has_fallback_entries(self) -> bool {
        // SAFETY: an element of an array.
        unsafe { (&raw const (*self.set).beside).read_volatile() != 0 }
    }

    /// One more lies beside the set, or is about to.
    #[inline(always)]
    pub(super) unsafe fn increment_fallback(self) {
        // SAFETY: an element of an array.
        unsafe { add64(&raw mut (*self.set).beside, 1) }
    }

    /// One does not any more.
    #[inline(always)]
    pub(super) unsafe fn decrement_fallback(self) {
        // SAFETY: an element of an array.
        unsafe { sub64(&raw mut (*self.set).beside, 1) }
    }

    /// Gives a flow a way.
    ///
    /// Two CPUs with packets of one flow that is new choose the same way: whoever sees another one free by then, as the
    /// other CPU has taken it, finds the flow's tag there, for which it looks after it has chosen. Only if a way is freed
    /// between their choices may the flow get two, each of which counts what it counts; the agent makes one of them.
    ///
    /// A flow host_filter tag is another flow's gets none: a tag leads to at most one flow.
    #[inline(always)]
    pub(super) unsafe fn insert(self, place: *const Place, entry: *const Entry) -> InsertOutcome {
        // SAFETY: an element of an array, host_filter slots are zero where they are free; the rest is the caller's.
        unsafe {
            let mut tries = 0;
            while tries < MAX_INSERT_ATTEMPTS {
                let way = self.free_slot();
                let own = slot(self.set, self.slot_with_tag(self.tag));
                if !own.is_null() {
                    return if holds_flow(own, place, &raw const (*entry).rest) {
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
                let found = compare_exchange(tag, FREE, self.tag);
                if found == FREE {
                    write_entry(slot, place, entry);
                    self.mark_group();
                    return InsertOutcome::Inserted;
                }
                if found == self.tag {
                    return if holds_flow(slot, place, &raw const (*entry).rest) {
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

    /// Notes for the agent that the set holds a new flow. It clears the word before it reads the tags, and the tag was
    /// written before, by an operation that orders what follows (LKMM: a successful `cmpxchg` is a full barrier): so the
    /// agent sees the flow now, or the word next time. A word that is set stays clean in the other CPUs' caches.
    #[inline(always)]
    unsafe fn mark_group(self) {
        if let Some(word) = INSERTED.get_ptr_mut(self.number / SETS_IN_GROUP) {
            // SAFETY: an element of an array, an aligned word that is only ever written whole.
            unsafe {
                if word.read_volatile() == 0 {
                    word.write_volatile(1);
                }
            }
        }
    }

    /// The way that the flow gets if it is free.
    #[inline(always)]
    fn preferred_slot(self) -> usize {
        ((self.tag & 0xffff) as usize * WAYS) >> 16
    }

    /// Reads from each line of the first choice, so that it comes from memory together with the tags rather than after
    /// them.
    #[inline(always)]
    unsafe fn prefetch(self) {
        // SAFETY: an element of an array, and a slot of it: words of it, the last of which is a line before its end.
        unsafe {
            let slot = (&raw const (*self.set).slots).cast::<Slot>().add(self.preferred_slot()).cast::<u64>();
            slot.read_volatile();
            slot.add(size_of::<Slot>() / 2 / size_of::<u64>()).read_volatile();
        }
    }

    /// A free way; [`WAYS`] where there is none.
    #[inline(always)]
    unsafe fn free_slot(self) -> usize {
        let choice = self.preferred_slot();
        // SAFETY: an element of an array.
        unsafe {
            let tag = (&raw const (*self.set).tags).cast::<u64>().add(choice).read_volatile();
            if tag == FREE { choice } else { self.slot_with_tag(FREE) }
        }
    }

    /// The last way with this tag; [`WAYS`] where there is none. Without a branch: which way it is cannot be foreseen,
    /// and the verifier would follow each.
    #[inline(always)]
    unsafe fn slot_with_tag(self, tag: u64) -> usize {
        let mut found = WAYS as u64;
        let mut way = 0;
        while way < WAYS {
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

/// The counters of the flow that has this way of this set; null where there is none.
#[inline(always)]
pub(super) unsafe fn counters(number: u32, way: usize) -> *mut FlowCounters {
    let Some(set) = SETS.get_ptr_mut(number) else { return core::ptr::null_mut() };
    // SAFETY: an element of an array.
    unsafe { counters_in(set, way) }
}

#[inline(always)]
unsafe fn counters_in(set: *mut Set, way: usize) -> *mut FlowCounters {
    // SAFETY: the caller's: an element of an array, and a slot of it.
    unsafe {
        let slot = slot(set, way);
        if slot.is_null() { core::ptr::null_mut() } else { &raw mut (*slot).entry.counters }
    }
}

#[inline(always)]
unsafe fn slot(set: *mut Set, way: usize) -> *mut Slot {
    let way = bounded(way);
    if way >= WAYS {
        return core::ptr::null_mut();
    }
    // SAFETY: an element of an array, and a slot of it.
    unsafe { (&raw mut (*set).slots).cast::<Slot>().add(way) }
}

/// Returns true if a slot with a flow's tag is that flow's. `rest` is null where it is of IPv4 for certain.
///
/// Until the CPU that took the slot has written the key, the tag decides: for two flows that share one (a pair in 2^62)
/// and begin in the same moment the packet is counted to the other one.
#[inline(always)]
unsafe fn holds_flow(slot: *const Slot, place: *const Place, rest: *const Rest) -> bool {
    // SAFETY: the caller's: a slot of an element of an array, and this CPU's own.
    unsafe {
        let same =
            (*slot).place.is(&*place) && (rest.is_null() || !(*place).v6() || (*slot).entry.rest.is(&*rest));
        same || (&raw const (*slot).entry.counters.first).read_volatile() == 0
    }
}

/// The same number, of which the verifier knows that it is small.
#[inline(always)]
fn bounded(way: usize) -> usize {
    let mut bounded = way;
    // SAFETY: one instruction on a register.
    unsafe {
        asm!("{w} &= {m}", w = inout(reg) bounded, m = const WAYS, options(pure, nomem, nostack, preserves_flags));
    }
    bounded
}

/// Writes a new flow to where all is zero, and where other CPUs may add to it by now.
#[inline(always)]
unsafe fn write_entry(slot: *mut Slot, place: *const Place, entry: *const Entry) {
    // SAFETY: the caller's: an element of an array, and this CPU's own.
    unsafe {
        (*slot).place = *place;
        if (*place).v6() {
            (*slot).entry.rest = (*entry).rest;
        }
        let (new, known) = (&raw mut (*slot).entry.counters, &raw const (*entry).counters);
        (*new).mac = (*known).mac;
        (*new).interface = (*known).interface;
        if (*known).facts.syn != 0 {
            (*new).facts.syn = 1;
            (*new).facts.answered |= (*known).facts.answered;
            (*new).isn_up = (*known).isn_up;
            (*new).up.last = (*known).up.last;
            add32(&raw mut (*new).up.bare_packets, (*known).up.bare_packets);
            add64(&raw mut (*new).up.bare_bytes, (*known).up.bare_bytes);
        }
        (*new).facts.looked |= (*known).facts.looked;
        // Whoever finds it there finds the rest.
        compare_exchange(&raw mut (*new).first, 0, (*known).first);
    }
}

/// Writes `new` where `old` is, in one step that all has_fallback_entries come before or after, and tells what was there
/// (BPF_CMPXCHG, Linux 5.12; where it is older the agent takes these instructions out).
#[inline(always)]
unsafe fn compare_exchange(at: *mut u64, old: u64, new: u64) -> u64 {
    let mut found = old;
    // SAFETY: the caller's: an aligned word inside a map element.
    unsafe {
        asm!("r0 = cmpxchg_64({p} + 0, r0, {n})", p = in(reg) at, n = in(reg) new, inout("r0") found, options(nostack));
    }
    found
}
