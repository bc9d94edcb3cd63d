//! Compact hash table: ordered open addressing that grows in small steps.
//!
//! Slots are in the order of the fingerprints. The home of a fingerprint is proportional to its value, and its slot
//! is the first free one from there. Growing keeps the order: slots move within the same allocations, which large
//! allocations extend without a copy (mremap).
//!
//! The high halves of the fingerprints are in a vector of their own, so that the entries that a search compares are
//! mostly in one cache line.
//!
//! A removed slot keeps its fingerprint and its position, for the next insertion nearby. Half of the flows of a
//! poll may have ended at the next one, and closing each gap would cost as much as all other work.

use std::{cmp::Ordering, hint::black_box};

use super::{fingerprint::FlowFingerprint, packed_counters::PackedCounters};

/// At most all but one of this many slots are in use.
const LOAD_DIVISOR: usize = 6;
/// The table grows by one part in this many.
const GROWTH_DIVISOR: usize = 12;
/// If more than one part in this many is removed, the table is rebuilt rather than grown.
const REBUILD_DIVISOR: usize = 16;
/// Slots behind the last home, for fingerprints that find no free slot before.
const TAIL_SLOTS: usize = 64;
/// High half of an empty slot, higher than that of any fingerprint.
const EMPTY_HIGH: u64 = u64::MAX;
/// Fingerprints compared at once. Few are farther from their home.
const COMPARED_AT_ONCE: usize = 8;

/// Packed counters of the live flows.
#[derive(Debug, Default)]
pub(super) struct CompactTable {
    /// High halves of the fingerprints.
    highs: Vec<u64>,
    slots: Vec<PackedCounters>,
    /// Number of slots that are homes.
    homes: usize,
    len: usize,
    /// Removed slots that keep their position.
    removed: usize,
}

impl CompactTable {
    /// Returns the slot of a fingerprint.
    #[inline]
    pub(super) fn get_mut(&mut self, fingerprint: FlowFingerprint) -> Option<&mut PackedCounters> {
        self.find(fingerprint).ok().map(|index| &mut self.slots[index]).filter(|slot| !slot.is_removed())
    }

    /// Prefetches the slots of `fingerprints`.
    ///
    /// Single searches would each wait for main memory. Here no load depends on another one, so the cache misses
    /// overlap.
    pub(super) fn prefetch<const N: usize>(&self, fingerprints: &[Option<FlowFingerprint>; N]) {
        let mut positions = [0; N];
        let mut all = 0;
        for (home, fingerprint) in positions.iter_mut().zip(fingerprints) {
            *home = fingerprint.map_or(0, |fingerprint| self.home(fingerprint.high));
        }
        for home in positions {
            all ^= self
                .highs
                .get(home..home + COMPARED_AT_ONCE)
                .map_or(0, |block| block[0] ^ block[COMPARED_AT_ONCE - 1]);
        }
        black_box(all);
        for (position, fingerprint) in positions.iter_mut().zip(fingerprints) {
            *position = fingerprint.map_or(0, |fingerprint| self.lower_bound(fingerprint.high));
        }
        for position in positions {
            all ^= self.slots.get(position).map_or(0, PackedCounters::prefetch);
        }
        black_box(all);
    }

    /// Inserts a slot, or replaces that of an equal fingerprint.
    pub(super) fn insert(&mut self, fingerprint: FlowFingerprint, slot: PackedCounters) {
        if self.len + self.removed >= self.homes / LOAD_DIVISOR * (LOAD_DIVISOR - 1) {
            if self.removed > self.homes / REBUILD_DIVISOR { self.rebuild(self.homes) } else { self.grow() }
        }
        loop {
            match self.find(fingerprint) {
                Ok(index) => return self.fill(index, fingerprint, slot),
                Err(index) => {
                    let free =
                        |index: &usize| self.highs[*index] == EMPTY_HIGH || self.slots[*index].is_removed();
                    if let Some(free) = (index..self.highs.len()).find(free) {
                        // The slot is removed, or is the empty one behind the slots that move up.
                        self.removed -= usize::from(self.highs[free] != EMPTY_HIGH);
                        self.highs.copy_within(index..free, index + 1);
                        self.slots.copy_within(index..free, index + 1);
                        self.highs[index] = EMPTY_HIGH;
                        return self.fill(index, fingerprint, slot);
                    }
                }
            }
            // The tail is full.
            self.grow();
        }
    }

    /// Writes a slot at an index that is empty, removed, or of an equal fingerprint.
    fn fill(&mut self, index: usize, fingerprint: FlowFingerprint, slot: PackedCounters) {
        if self.highs[index] == EMPTY_HIGH {
            self.len += 1;
        } else if self.slots[index].is_removed() {
            self.removed -= 1;
            self.len += 1;
        }
        (self.highs[index], self.slots[index]) = (fingerprint.high, slot);
    }

    /// Removes a slot.
    pub(super) fn remove(&mut self, fingerprint: FlowFingerprint) -> Option<PackedCounters> {
        let index = self.find(fingerprint).ok()?;
        let slot = self.slots[index];
        if slot.is_removed() {
            return None;
        }
        self.slots[index].mark_removed();
        self.len -= 1;
        self.removed += 1;
        Some(slot)
    }

    /// Returns every slot with its fingerprint.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowFingerprint, &PackedCounters)> {
        let all = self.highs.iter().zip(&self.slots);
        let used = all.filter(|(high, slot)| **high != EMPTY_HIGH && !slot.is_removed());
        used.map(|(high, slot)| (FlowFingerprint { high: *high, low: slot.low() }, slot))
    }

    /// Returns every slot.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut PackedCounters> {
        let all = self.highs.iter().zip(&mut self.slots);
        all.filter(|(high, slot)| **high != EMPTY_HIGH && !slot.is_removed()).map(|(_, slot)| slot)
    }

    /// Removes all slots for which `keep` returns false.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(FlowFingerprint, &PackedCounters) -> bool) {
        for (high, slot) in self.highs.iter().zip(&mut self.slots) {
            if *high != EMPTY_HIGH
                && !slot.is_removed()
                && !keep(FlowFingerprint { high: *high, low: slot.low() }, slot)
            {
                slot.mark_removed();
                self.len -= 1;
                self.removed += 1;
            }
        }
        if self.removed > 0 {
            self.clear_removed();
            self.place_all();
        }
    }

    /// Releases memory that `max_slots` slots do not need.
    pub(super) fn shrink(&mut self, max_slots: usize) {
        let needed = max_slots.max(self.len) / (LOAD_DIVISOR - 1) * LOAD_DIVISOR;
        let needed = needed + needed / GROWTH_DIVISOR + LOAD_DIVISOR;
        if needed < self.homes / 4 * 3 {
            self.rebuild(needed);
        }
    }

    /// Returns the number of slots in use.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn home(&self, high: u64) -> usize {
        home(high, self.homes)
    }

    /// Returns the first index from the home of `high` on that is empty or whose high half is not lower. All later
    /// ones are empty or not lower either.
    #[inline]
    fn lower_bound(&self, high: u64) -> usize {
        let mut index = self.home(high);
        // Branch-free, as the branches would be unpredictable.
        while let Some(block) = self.highs.get(index..index + COMPARED_AT_ONCE) {
            let lower = block.iter().map(|other| usize::from(*other < high)).sum::<usize>();
            index += lower;
            if lower < COMPARED_AT_ONCE {
                return index;
            }
        }
        index
            + self
                .highs
                .get(index..)
                .unwrap_or_default()
                .iter()
                .take_while(|fingerprint| **fingerprint < high)
                .count()
    }

    /// Returns the index of a fingerprint, or that of its insertion.
    #[inline]
    fn find(&self, fingerprint: FlowFingerprint) -> Result<usize, usize> {
        let mut index = self.lower_bound(fingerprint.high);
        // Equal high halves are very rare.
        while self.highs.get(index) == Some(&fingerprint.high) {
            match self.slots[index].low().cmp(&fingerprint.low) {
                Ordering::Less => index += 1,
                Ordering::Equal => return Ok(index),
                Ordering::Greater => break,
            }
        }
        Err(index)
    }

    fn grow(&mut self) {
        self.rebuild(self.homes + self.homes / GROWTH_DIVISOR + LOAD_DIVISOR);
    }

    /// Rebuilds the table with so many homes.
    fn rebuild(&mut self, homes: usize) {
        self.clear_removed();
        let grows = homes > self.homes;
        self.homes = homes;
        if grows {
            let used = self.highs.iter().filter(|fingerprint| **fingerprint != EMPTY_HIGH);
            let end = used.fold(0, |next, fingerprint| home(*fingerprint, homes).max(next) + 1);
            self.resize(homes.max(end) + TAIL_SLOTS);
            self.pack();
        }
        let end = self.place_all();
        self.resize(homes.max(end) + TAIL_SLOTS);
    }

    /// Empties removed slots; [`CompactTable::place_all`] must follow.
    fn clear_removed(&mut self) {
        let all = self.highs.iter_mut().zip(&self.slots);
        all.filter(|(_, slot)| slot.is_removed()).for_each(|(high, _)| *high = EMPTY_HIGH);
        self.removed = 0;
    }

    fn resize(&mut self, length: usize) {
        resize(&mut self.highs, length, EMPTY_HIGH);
        resize(&mut self.slots, length, PackedCounters::default());
    }

    /// Moves all slots to the end.
    fn pack(&mut self) {
        let mut end = self.highs.len();
        for index in (0..self.highs.len()).rev() {
            if self.highs[index] != EMPTY_HIGH {
                end -= 1;
                self.move_slot(index, end);
            }
        }
    }

    /// Moves all slots to their final positions, none of which is behind the current one. Returns the end of the
    /// last one.
    fn place_all(&mut self) -> usize {
        let mut next = 0;
        for index in 0..self.highs.len() {
            if self.highs[index] != EMPTY_HIGH {
                let position = self.home(self.highs[index]).max(next);
                self.move_slot(index, position);
                next = position + 1;
            }
        }
        next
    }

    fn move_slot(&mut self, from: usize, to: usize) {
        if from != to {
            (self.highs[to], self.slots[to]) = (self.highs[from], self.slots[from]);
            self.highs[from] = EMPTY_HIGH;
        }
    }
}

/// Returns the home of a high half. Homes ascend with the high halves.
#[inline]
fn home(high: u64, homes: usize) -> usize {
    ((u128::from(high) * homes as u128) >> 64) as usize
}

fn resize<T: Copy>(all: &mut Vec<T>, length: usize, with: T) {
    all.truncate(length);
    all.shrink_to_fit();
    all.reserve_exact(length - all.len());
    all.resize(length, with);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::fixture;

    /// Fingerprints with few homes, with equal ones, and with any.
    fn fingerprint() -> impl Strategy<Value = FlowFingerprint> {
        let high = prop_oneof![
            Just(0),
            Just(u64::MAX - 1),
            (0..4u64).prop_map(|n| (n << 62).max(1)),
            (0..400u64).prop_map(|n| (n * (u64::MAX / 400)).max(1)),
            0..u64::MAX,
        ];
        (high, 0..3u32).prop_map(|(high, low)| FlowFingerprint { high, low })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Vec<(FlowFingerprint, u8)>),
        Remove(Vec<FlowFingerprint>),
        RemoveNth(usize),
        Retain(u8),
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let put = prop::collection::vec((fingerprint(), 1u8..=255), 1..200).prop_map(Step::Insert);
        let remove = prop::collection::vec(fingerprint(), 1..50).prop_map(Step::Remove);
        let step = prop_oneof![
            4 => put,
            2 => remove,
            3 => (0..10_000usize).prop_map(Step::RemoveNth),
            1 => (1u8..=255).prop_map(Step::Retain),
            1 => Just(Step::Shrink),
        ];
        prop::collection::vec(step, 1..30)
    }

    fn slot(fingerprint: FlowFingerprint, poll: u8) -> PackedCounters {
        PackedCounters::new(fingerprint, &fixture::flow("10.0.0.1:4000", "9.9.9.9:25"), poll)
    }

    fn check(slots: &mut CompactTable, model: &BTreeMap<FlowFingerprint, u8>) {
        assert_eq!(slots.len(), model.len());
        let actual: Vec<_> = slots.iter().map(|(fingerprint, slot)| (fingerprint, slot.poll())).collect();
        let removed = slots
            .highs
            .iter()
            .zip(&slots.slots)
            .filter(|(fingerprint, slot)| **fingerprint != EMPTY_HIGH && slot.is_removed());
        assert_eq!(slots.removed, removed.count());
        let expected: Vec<_> = model.iter().map(|(fingerprint, poll)| (*fingerprint, *poll)).collect();
        assert_eq!(actual, expected, "in order");
        for (fingerprint, poll) in model {
            assert_eq!(slots.get_mut(*fingerprint).map(|slot| slot.poll()), Some(*poll));
        }
        assert!(slots.len + slots.removed <= slots.homes, "{} of {}", slots.len, slots.homes);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// The table equals a `BTreeMap`, also in its order of iteration.
        #[test]
        fn the_table_equals_an_ordered_map(steps in steps()) {
            let (mut slots, mut model) = (CompactTable::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(all) => for (fingerprint, poll) in all {
                        slots.insert(fingerprint, slot(fingerprint, poll));
                        model.insert(fingerprint, poll);
                    },
                    Step::Remove(fingerprints) => for fingerprint in fingerprints {
                        let removed = slots.remove(fingerprint).map(|slot| slot.poll());
                        prop_assert_eq!(removed, model.remove(&fingerprint));
                    },
                    Step::RemoveNth(n) => {
                        if let Some(fingerprint) = model.keys().nth(n % model.len().max(1)).copied() {
                            prop_assert!(slots.remove(fingerprint).is_some());
                            model.remove(&fingerprint);
                        }
                    },
                    Step::Retain(below) => {
                        slots.retain(|_, slot| slot.poll() < below);
                        model.retain(|_, poll| *poll < below);
                    },
                    Step::Shrink => {
                        slots.shrink(0);
                        prop_assert!(slots.slots.capacity() <= slots.len() * 2 + 2 * TAIL_SLOTS, "{}", slots.len());
                    },
                }
                check(&mut slots, &model);
            }
        }
    }

    #[test]
    fn more_fingerprints_of_one_home_than_the_tail_holds() {
        for high in [0, 1 << 63, u64::MAX - 1] {
            let mut slots = CompactTable::default();
            let fingerprints = (0..5 * TAIL_SLOTS as u32).rev().map(|low| FlowFingerprint { high, low });
            fingerprints.clone().for_each(|fingerprint| slots.insert(fingerprint, slot(fingerprint, 1)));
            assert!(fingerprints.clone().all(|fingerprint| slots.get_mut(fingerprint).is_some()));
            assert!(fingerprints.clone().all(|fingerprint| slots.remove(fingerprint).is_some()));
            assert_eq!((slots.len(), slots.removed), (0, fingerprints.len()));
            slots.retain(|_, _| true);
            assert_eq!(
                (slots.removed, slots.highs.iter().all(|fingerprint| *fingerprint == EMPTY_HIGH)),
                (0, true)
            );
        }
    }
}
