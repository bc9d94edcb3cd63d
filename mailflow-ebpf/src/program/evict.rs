//! Taking flows out of the table for the agent: many at a time, and each only if it is still what the
//! agent saw.
//!
//! The agent runs this program itself (BPF_PROG_TEST_RUN); the frame is its list. A command of bpf(2)
//! for each flow would cost five times as much, and those for many at once delete whatever is there.

use mailflow_common::{Removal, removal};

use crate::maps::flow_table;

/// Answers every removal in the frame between `start` and `end`.
#[inline(always)]
pub(super) fn evict_batch(start: usize, end: usize) {
    let mut index = 0;
    while index < removal::MOST {
        let asked = start + index * size_of::<Removal>();
        if asked + size_of::<Removal>() > end {
            return;
        }
        let asked = asked as *mut Removal;
        // SAFETY: within the frame, as just seen.
        unsafe { (*asked).answer = evict_one(asked) };
        index += 1;
    }
}

#[inline(always)]
unsafe fn evict_one(asked: *const Removal) -> u64 {
    // SAFETY: the caller's: within the frame; what is found is an element of a preallocated map.
    unsafe {
        let key = &(*asked).flow;
        let flow = flow_table::fallback_entry(key);
        if flow.is_null() {
            return removal::ABSENT;
        }
        let packets = (*flow).up.packets() + (*flow).down.packets();
        // Low words: one of the counters is no wider.
        if packets as u32 != (*asked).packets as u32 {
            return removal::LIVES;
        }
        if flow_table::remove_fallback(key) { removal::REMOVED } else { removal::ABSENT }
    }
}
