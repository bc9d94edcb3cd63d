//! Slot of a bucket: words that packets add to at the same time.

use std::{
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
};

use mailflow_common::{Bucket, BucketSlot, DirectionCounters, Facts, FlowCounters, MapEntry};

use crate::flow_table::{conservation::TrafficSum, element};
use mailflow_engine::event::CounterDelta;

const SLOT_WORDS: usize = size_of::<BucketSlot>() / 8;
const SLOTS_WORD: usize = offset_of!(Bucket, slots) / 8;
/// Offset of the counters.
const COUNTERS_WORD: usize = (offset_of!(BucketSlot, entry) + offset_of!(MapEntry, counters)) / 8;
/// Offset of the start time.
pub(super) const FIRST_WORD: usize = COUNTERS_WORD + offset_of!(FlowCounters, first) / 8;

const _: () = assert!(offset_of!(FlowCounters, facts) == 0, "the facts are the counters' first word");

/// Returns a slot of a bucket.
pub(super) fn slot(bucket: &[AtomicU64], slot_index: usize) -> &[AtomicU64] {
    let start = SLOTS_WORD + slot_index * SLOT_WORDS;
    &bucket[start..start + SLOT_WORDS]
}

/// Adds counters to those in a slot.
pub(super) fn add(slot: &[AtomicU64], counters: &FlowCounters) {
    let at = |field: usize| &slot[COUNTERS_WORD + field / 8];
    // Only facts that accumulate: the class of the first payload stays with the slot that saw the payload.
    const SEEN_FACTS: u64 = (1 << (8 * offset_of!(Facts, first_payload_up))) - 1;
    let facts = element::bytes(std::slice::from_ref(counters)).first_chunk().copied();
    let facts = u64::from_ne_bytes(facts.unwrap_or_default());
    at(offset_of!(FlowCounters, facts)).fetch_or(facts & SEEN_FACTS, Ordering::Relaxed);
    at(offset_of!(FlowCounters, messages)).fetch_add(u64::from(counters.messages), Ordering::Relaxed);
    let directions =
        [(offset_of!(FlowCounters, up), &counters.up), (offset_of!(FlowCounters, down), &counters.down)];
    for (field, direction) in directions {
        at(field + offset_of!(DirectionCounters, data_packets))
            .fetch_add(direction.data_packets, Ordering::Relaxed);
        at(field + offset_of!(DirectionCounters, data_bytes))
            .fetch_add(direction.data_bytes, Ordering::Relaxed);
        at(field + offset_of!(DirectionCounters, payload)).fetch_add(direction.payload, Ordering::Relaxed);
        at(field + offset_of!(DirectionCounters, bare_bytes))
            .fetch_add(direction.bare_bytes, Ordering::Relaxed);
        // The low half of a word; the high half is a time.
        let packets = at(field + offset_of!(DirectionCounters, bare_packets));
        packets.fetch_add(u64::from(direction.bare_packets), Ordering::Relaxed);
    }
}

/// Returns the counts in a slot.
pub(super) fn slot_counts(slot: &[AtomicU64]) -> TrafficSum {
    let direction = |field: usize| {
        let word = |offset: usize| slot[COUNTERS_WORD + (field + offset) / 8].load(Ordering::Relaxed);
        CounterDelta {
            // The low half of a word; the high half is a time.
            packets: word(offset_of!(DirectionCounters, data_packets))
                + u64::from(word(offset_of!(DirectionCounters, bare_packets)) as u32),
            bytes: word(offset_of!(DirectionCounters, data_bytes))
                + word(offset_of!(DirectionCounters, bare_bytes)),
        }
    };
    TrafficSum {
        up: direction(offset_of!(FlowCounters, up)),
        down: direction(offset_of!(FlowCounters, down)),
    }
}

/// Copies a slot.
pub(super) fn read(words: &[AtomicU64]) -> BucketSlot {
    let mut slot = [BucketSlot::default()];
    let bytes = element::bytes_mut(&mut slot);
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    let [slot] = slot;
    slot
}
