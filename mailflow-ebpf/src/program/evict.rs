//! Eviction of flows from the fallback map, each only if it still has the packets that the agent has seen.
//!
//! The agent runs this program (BPF_PROG_TEST_RUN) with a frame of removals. One bpf(2) call for each flow
//! would cost five times as much, and the batch calls delete entries unconditionally.

use mailflow_common::{Removal, removal_outcome};

use crate::maps::flow_table;

/// Processes every removal in the frame between `start` and `end`.
#[inline(always)]
pub(super) fn evict_batch(start: usize, end: usize) {
    let mut index = 0;
    while index < removal_outcome::MOST {
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
            return removal_outcome::ABSENT;
        }
        let packets = (*flow).up.packets() + (*flow).down.packets();
        // Low words: one of the counters is no wider.
        if packets as u32 != (*asked).packets as u32 {
            return removal_outcome::LIVES;
        }
        if flow_table::remove_fallback(key) { removal_outcome::REMOVED } else { removal_outcome::ABSENT }
    }
}
