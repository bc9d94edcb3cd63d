//! A hash table that grows by little and holds nothing but its slots.
//!
//! The slots are in the order of the names, and each is at its name's share of the table's length (its
//! home) or, where others are before it, as soon after as there is room. So growing keeps the order:
//! everything moves within the same blocks of memory, which large allocations extend without a copy.
//!
//! The half of the name that is searched for lies apart from the rest: the neighbours that a search
//! passes are then mostly in one cache line.
//!
//! A slot that is taken out keeps its name and its place, for the next that belongs there or near: half of the
//! flows of a reading may be over at the next, and to close the ranks behind each would cost as much as all the rest.

use std::{cmp::Ordering, hint::black_box};

use super::{fingerprint::FlowFingerprint, packed_counters::PackedCounters};

/// Of this many slots, one fewer is taken at most.
const ROOM: usize = 6;
/// The table grows by this part of itself.
const STEP: usize = 12;
/// Where this part of the table has been taken out, what is left is put together rather than the table grown.
const GONE: usize = 16;
/// Slots behind the last home, for those that find no room before.
const TAIL: usize = 64;
/// No name's upper half; higher than all of them.
const EMPTY: u64 = u64::MAX;
/// Names compared at once: few are farther from home.
const NEAR: usize = 8;

/// The slots of the live flows.
#[derive(Debug, Default)]
pub(super) struct CompactTable {
    /// The upper halves of the names.
    names: Vec<u64>,
    slots: Vec<PackedCounters>,
    /// Slots that are somebody's home.
    homes: usize,
    len: usize,
    /// Slots taken out that keep their place.
    gone: usize,
}

impl CompactTable {
    /// The slot of a name, if there is one.
    #[inline]
    pub(super) fn get_mut(&mut self, name: FlowFingerprint) -> Option<&mut PackedCounters> {
        self.find(name).ok().map(|index| &mut self.slots[index]).filter(|slot| !slot.is_gone())
    }

    /// Brings the slots of `names` into the caches.
    ///
    /// Searched for one by one, each waits for main memory alone. Here nothing depends on what is read,
    /// and little is done in between, so that the waits overlap.
    pub(super) fn warm<const N: usize>(&self, names: &[Option<FlowFingerprint>; N]) {
        let mut places = [0; N];
        let mut all = 0;
        for (home, name) in places.iter_mut().zip(names) {
            *home = name.map_or(0, |name| self.home(name.high));
        }
        for home in places {
            all ^= self.names.get(home..home + NEAR).map_or(0, |near| near[0] ^ near[NEAR - 1]);
        }
        black_box(all);
        for (place, name) in places.iter_mut().zip(names) {
            *place = name.map_or(0, |name| self.lower(name.high));
        }
        for place in places {
            all ^= self.slots.get(place).map_or(0, PackedCounters::touch);
        }
        black_box(all);
    }

    /// Adds a slot, or replaces the one of the same name.
    pub(super) fn put(&mut self, name: FlowFingerprint, slot: PackedCounters) {
        if self.len + self.gone >= self.homes / ROOM * (ROOM - 1) {
            if self.gone > self.homes / GONE { self.fit(self.homes) } else { self.grow() }
        }
        loop {
            match self.find(name) {
                Ok(index) => return self.fill(index, name, slot),
                Err(index) => {
                    let free = |index: &usize| self.names[*index] == EMPTY || self.slots[*index].is_gone();
                    if let Some(free) = (index..self.names.len()).find(free) {
                        // Nobody's place any more, or the first of those that move up.
                        self.gone -= usize::from(self.names[free] != EMPTY);
                        self.names.copy_within(index..free, index + 1);
                        self.slots.copy_within(index..free, index + 1);
                        self.names[index] = EMPTY;
                        return self.fill(index, name, slot);
                    }
                }
            }
            // The tail is full.
            self.grow();
        }
    }

    /// Puts a slot where one of its name is or was, or none.
    fn fill(&mut self, index: usize, name: FlowFingerprint, slot: PackedCounters) {
        if self.names[index] == EMPTY {
            self.len += 1;
        } else if self.slots[index].is_gone() {
            self.gone -= 1;
            self.len += 1;
        }
        (self.names[index], self.slots[index]) = (name.high, slot);
    }

    /// Takes a slot out.
    pub(super) fn remove(&mut self, name: FlowFingerprint) -> Option<PackedCounters> {
        let index = self.find(name).ok()?;
        let slot = self.slots[index];
        if slot.is_gone() {
            return None;
        }
        self.slots[index].go();
        self.len -= 1;
        self.gone += 1;
        Some(slot)
    }

    /// Every slot with its name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowFingerprint, &PackedCounters)> {
        let all = self.names.iter().zip(&self.slots);
        let taken = all.filter(|(high, slot)| **high != EMPTY && !slot.is_gone());
        taken.map(|(high, slot)| (FlowFingerprint { high: *high, low: slot.low() }, slot))
    }

    /// Every slot.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut PackedCounters> {
        let all = self.names.iter().zip(&mut self.slots);
        all.filter(|(high, slot)| **high != EMPTY && !slot.is_gone()).map(|(_, slot)| slot)
    }

    /// Takes out all slots but those that `keep` holds of.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(FlowFingerprint, &PackedCounters) -> bool) {
        for (high, slot) in self.names.iter().zip(&mut self.slots) {
            if *high != EMPTY
                && !slot.is_gone()
                && !keep(FlowFingerprint { high: *high, low: slot.low() }, slot)
            {
                slot.go();
                self.len -= 1;
                self.gone += 1;
            }
        }
        if self.gone > 0 {
            self.clear_gone();
            self.place();
        }
    }

    /// Gives memory back that `most` slots do not need.
    pub(super) fn shrink(&mut self, most: usize) {
        let needed = most.max(self.len) / (ROOM - 1) * ROOM;
        let needed = needed + needed / STEP + ROOM;
        if needed < self.homes / 4 * 3 {
            self.fit(needed);
        }
    }

    /// Slots taken.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn home(&self, high: u64) -> usize {
        home(high, self.homes)
    }

    /// The first slot behind `high`'s home that is empty or whose name's upper half is not lower. All
    /// that follow are the same.
    #[inline]
    fn lower(&self, high: u64) -> usize {
        let mut index = self.home(high);
        // Without a branch for each: the processor could not guess them.
        while let Some(near) = self.names.get(index..index + NEAR) {
            let lower = near.iter().map(|name| usize::from(*name < high)).sum::<usize>();
            index += lower;
            if lower < NEAR {
                return index;
            }
        }
        index + self.names.get(index..).unwrap_or_default().iter().take_while(|name| **name < high).count()
    }

    /// Where the slot of a name is, or would have to be.
    #[inline]
    fn find(&self, name: FlowFingerprint) -> Result<usize, usize> {
        let mut index = self.lower(name.high);
        // Hardly ever more than one.
        while self.names.get(index) == Some(&name.high) {
            match self.slots[index].low().cmp(&name.low) {
                Ordering::Less => index += 1,
                Ordering::Equal => return Ok(index),
                Ordering::Greater => break,
            }
        }
        Err(index)
    }

    fn grow(&mut self) {
        self.fit(self.homes + self.homes / STEP + ROOM);
    }

    /// Makes `homes` of them.
    fn fit(&mut self, homes: usize) {
        self.clear_gone();
        let grows = homes > self.homes;
        self.homes = homes;
        if grows {
            let taken = self.names.iter().filter(|name| **name != EMPTY);
            let end = taken.fold(0, |next, name| home(*name, homes).max(next) + 1);
            self.resize(homes.max(end) + TAIL);
            self.pack();
        }
        let end = self.place();
        self.resize(homes.max(end) + TAIL);
    }

    /// Slots that were taken out have no place any more; [`CompactTable::place`] follows.
    fn clear_gone(&mut self) {
        let all = self.names.iter_mut().zip(&self.slots);
        all.filter(|(_, slot)| slot.is_gone()).for_each(|(high, _)| *high = EMPTY);
        self.gone = 0;
    }

    fn resize(&mut self, length: usize) {
        resize(&mut self.names, length, EMPTY);
        resize(&mut self.slots, length, PackedCounters::default());
    }

    /// Moves all slots to the end.
    fn pack(&mut self) {
        let mut end = self.names.len();
        for index in (0..self.names.len()).rev() {
            if self.names[index] != EMPTY {
                end -= 1;
                self.move_slot(index, end);
            }
        }
    }

    /// Moves all slots to their places, none of which is behind where it is; gives their end.
    fn place(&mut self) -> usize {
        let mut next = 0;
        for index in 0..self.names.len() {
            if self.names[index] != EMPTY {
                let place = self.home(self.names[index]).max(next);
                self.move_slot(index, place);
                next = place + 1;
            }
        }
        next
    }

    fn move_slot(&mut self, from: usize, to: usize) {
        if from != to {
            (self.names[to], self.slots[to]) = (self.names[from], self.slots[from]);
            self.names[from] = EMPTY;
        }
    }
}

/// The higher a name, the higher its home.
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

    /// Few different homes and many equal ones, and everywhere.
    fn name() -> impl Strategy<Value = FlowFingerprint> {
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
        Put(Vec<(FlowFingerprint, u8)>),
        Remove(Vec<FlowFingerprint>),
        RemoveNth(usize),
        Retain(u8),
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let put = prop::collection::vec((name(), 1u8..=255), 1..200).prop_map(Step::Put);
        let remove = prop::collection::vec(name(), 1..50).prop_map(Step::Remove);
        let step = prop_oneof![
            4 => put,
            2 => remove,
            3 => (0..10_000usize).prop_map(Step::RemoveNth),
            1 => (1u8..=255).prop_map(Step::Retain),
            1 => Just(Step::Shrink),
        ];
        prop::collection::vec(step, 1..30)
    }

    fn slot(name: FlowFingerprint, reading: u8) -> PackedCounters {
        PackedCounters::new(name, &fixture::flow("10.0.0.1:4000", "9.9.9.9:25"), reading)
    }

    fn check(slots: &mut CompactTable, model: &BTreeMap<FlowFingerprint, u8>) {
        assert_eq!(slots.len(), model.len());
        let held: Vec<_> = slots.iter().map(|(name, slot)| (name, slot.reading())).collect();
        let gone =
            slots.names.iter().zip(&slots.slots).filter(|(name, slot)| **name != EMPTY && slot.is_gone());
        assert_eq!(slots.gone, gone.count());
        let expected: Vec<_> = model.iter().map(|(name, reading)| (*name, *reading)).collect();
        assert_eq!(held, expected, "in order");
        for (name, reading) in model {
            assert_eq!(slots.get_mut(*name).map(|slot| slot.reading()), Some(*reading));
        }
        assert!(slots.len + slots.gone <= slots.homes, "{} of {}", slots.len, slots.homes);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// The same as a map of the standard library, which also walks in the order of names.
        #[test]
        fn it_is_a_map(steps in steps()) {
            let (mut slots, mut model) = (CompactTable::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(all) => for (name, reading) in all {
                        slots.put(name, slot(name, reading));
                        model.insert(name, reading);
                    },
                    Step::Remove(names) => for name in names {
                        let removed = slots.remove(name).map(|slot| slot.reading());
                        prop_assert_eq!(removed, model.remove(&name));
                    },
                    Step::RemoveNth(n) => {
                        if let Some(name) = model.keys().nth(n % model.len().max(1)).copied() {
                            prop_assert!(slots.remove(name).is_some());
                            model.remove(&name);
                        }
                    },
                    Step::Retain(below) => {
                        slots.retain(|_, slot| slot.reading() < below);
                        model.retain(|_, reading| *reading < below);
                    },
                    Step::Shrink => {
                        slots.shrink(0);
                        prop_assert!(slots.slots.capacity() <= slots.len() * 2 + 2 * TAIL, "{}", slots.len());
                    },
                }
                check(&mut slots, &model);
            }
        }
    }

    #[test]
    fn more_names_at_one_home_than_the_tail_has_room_for() {
        for high in [0, 1 << 63, u64::MAX - 1] {
            let mut slots = CompactTable::default();
            let names = (0..5 * TAIL as u32).rev().map(|low| FlowFingerprint { high, low });
            names.clone().for_each(|name| slots.put(name, slot(name, 1)));
            assert!(names.clone().all(|name| slots.get_mut(name).is_some()));
            assert!(names.clone().all(|name| slots.remove(name).is_some()));
            assert_eq!((slots.len(), slots.gone), (0, names.len()));
            slots.retain(|_, _| true);
            assert_eq!((slots.gone, slots.names.iter().all(|name| *name == EMPTY)), (0, true));
        }
    }
}
