//! Shard of a rule's groups: slab, hash index, lists of the timing wheel, and the choice of a group to remove.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    hint::black_box,
};

use hashbrown::HashTable;

use super::{group_key::GroupKey, group_state::GroupState, timing_wheel::WHEEL_SLOTS};

/// The slab grows by one part in this many.
const GROWTH_DIVISOR: usize = 16;

/// Index that ends a list of slots.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// Half-open groups that are compared for the one with the fewest flows.
const COMPARED_HALF_OPEN: usize = 16;

/// Bytes of a group without its heap allocations: its slab slot, the spare capacity of the slab, and its index
/// entry.
pub(super) const GROUP_OVERHEAD_BYTES: usize =
    size_of::<GroupSlot>() * (GROWTH_DIVISOR + 1) / GROWTH_DIVISOR + 8;

/// Shard of a rule's groups.
#[derive(Debug)]
pub(super) struct GroupShard {
    pub(super) slab: Vec<GroupSlot>,
    /// First free slot; each links to the next.
    pub(super) free_list: u32,
    /// Slots without a group that are still linked in a wheel list.
    pub(super) vacant_slots: Vec<u32>,
    pub(super) len: usize,
    /// Slot of each group, by the hash of its key.
    pub(super) index: HashTable<u32>,
    /// Slots of groups that were half-open at insertion, oldest first, each with its generation.
    pub(super) half_open: VecDeque<(u32, u32)>,
    /// Next slot that [`GroupShard::next_used`] examines, as the hand of the CLOCK algorithm.
    pub(super) clock_hand: u32,
    /// First slot of each wheel list; each links to the next. Empty until the first insertion.
    pub(super) wheel_lists: Vec<u32>,
}

/// Candidate for removal.
pub(super) struct HalfOpenGroup {
    pub(super) flows: usize,
    pub(super) at: u32,
    pub(super) generation: u32,
}

/// Slot of the slab.
#[derive(Debug)]
pub(super) struct GroupSlot {
    pub(super) entry: Option<(GroupKey, GroupState)>,
    /// Next slot of the same list.
    pub(super) next: u32,
    /// Incremented with each group that takes the slot.
    pub(super) generation: u32,
}

impl Default for GroupShard {
    fn default() -> Self {
        Self {
            slab: Vec::new(),
            free_list: NO_SLOT,
            vacant_slots: Vec::new(),
            len: 0,
            index: HashTable::new(),
            half_open: VecDeque::new(),
            clock_hand: 0,
            wheel_lists: Vec::new(),
        }
    }
}

impl GroupSlot {
    pub(super) fn is_half_open(&self) -> bool {
        self.get().is_some_and(|(_, group)| {
            !group.has_server_payload() && group.removal_priority() < (true, false, 0)
        })
    }

    pub(super) fn get(&self) -> Option<(&GroupKey, &GroupState)> {
        self.entry.as_ref().map(|(group_key, group)| (group_key, group))
    }

    pub(super) fn get_mut(&mut self) -> Option<(&GroupKey, &mut GroupState)> {
        self.entry.as_mut().map(|(group_key, group)| (&*group_key, group))
    }
}

impl GroupShard {
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<(&GroupKey, &mut GroupState)> {
        self.slab.get_mut(slot as usize)?.get_mut()
    }

    pub(super) fn find(&self, hash: u64, group_key: &GroupKey) -> Option<u32> {
        let same = |slot: &u32| {
            let entry = self.slab.get(*slot as usize).and_then(GroupSlot::get);
            entry.is_some_and(|(of, _)| of == group_key)
        };
        self.index.find(hash, same).copied()
    }

    /// Prefetches groups before a visit. Each group takes several dependent cache misses; the prefetch overlaps
    /// them.
    pub(super) fn prefetch(&self, slots: impl Iterator<Item = u32>) {
        let groups = slots.filter_map(|slot| self.slab.get(slot as usize)?.get());
        black_box(groups.fold(0, |sum, (_, group)| sum ^ group.prefetch()));
    }

    /// Inserts an absent group and links it into the list of `wheel_slot`. Returns its slot.
    pub(super) fn push(
        &mut self,
        hasher: &RandomState,
        hash: u64,
        entry: (GroupKey, GroupState),
        wheel_slot: usize,
        has_server_payload: bool,
    ) -> u32 {
        if self.wheel_lists.is_empty() {
            self.wheel_lists = vec![NO_SLOT; WHEEL_SLOTS];
        }
        let Self { slab, free_list, vacant_slots, index, half_open, wheel_lists, .. } = self;
        let mut next_in_list = NO_SLOT;
        let reused = vacant_slots.pop();
        // The index fits: a table has at most [`MAX_GROUPS`](crate::rule::limits::MAX_GROUPS) groups.
        let at = reused.unwrap_or(if *free_list == NO_SLOT { slab.len() as u32 } else { *free_list });
        if reused.is_none()
            && let Some(first) = wheel_lists.get_mut(wheel_slot)
        {
            next_in_list = std::mem::replace(first, at);
        }
        match slab.get_mut(at as usize) {
            Some(slot) if reused.is_some() => {
                slot.entry = Some(entry);
                slot.generation = slot.generation.wrapping_add(1);
            }
            Some(slot) => {
                *free_list = slot.next;
                *slot = GroupSlot {
                    entry: Some(entry),
                    next: next_in_list,
                    generation: slot.generation.wrapping_add(1),
                };
            }
            None => {
                if slab.len() == slab.capacity() {
                    slab.reserve_exact((slab.len() / GROWTH_DIVISOR).max(1));
                }
                slab.push(GroupSlot { entry: Some(entry), next: next_in_list, generation: 0 });
            }
        }
        index.insert_unique(hash, at, |slot| hash_at(slab, hasher, *slot));
        self.len += 1;
        if !has_server_payload {
            if half_open.len() >= slab.len() * 2 {
                half_open.retain(|(at, generation)| {
                    let slot = slab.get(*at as usize).filter(|slot| slot.generation == *generation);
                    slot.is_some_and(GroupSlot::is_half_open)
                });
            }
            let generation = slab.get(at as usize).map_or(0, |slot| slot.generation);
            half_open.push_back((at, generation));
        }
        at
    }

    /// Returns the half-open group with the fewest flows among the oldest, and requeues the others.
    pub(super) fn least_active(&mut self) -> Option<HalfOpenGroup> {
        let mut least_active: Option<(usize, (u32, u32))> = None;
        let mut compared = 0;
        while compared < COMPARED_HALF_OPEN {
            let Some((at, generation)) = self.half_open.pop_front() else { break };
            let slot = self
                .slab
                .get(at as usize)
                .filter(|slot| slot.generation == generation && slot.is_half_open());
            let Some((_, group)) = slot.and_then(GroupSlot::get) else { continue };
            let flows = group.events();
            compared += 1;
            match &least_active {
                Some((fewest, _)) if *fewest <= flows => self.half_open.push_back((at, generation)),
                _ => {
                    let other = least_active.replace((flows, (at, generation)));
                    self.half_open.extend(other.map(|(_, other)| other));
                }
            }
            if flows <= 1 {
                break;
            }
        }
        least_active.map(|(flows, (at, generation))| HalfOpenGroup { flows, at, generation })
    }

    /// Returns the next slot that holds a group, in round-robin order.
    pub(super) fn next_used(&mut self) -> Option<(u32, &GroupState)> {
        let from = self.clock_hand as usize;
        let used = |slot: &usize| self.slab.get(*slot).is_some_and(|slot| slot.entry.is_some());
        let at = (from..self.slab.len()).find(used).or_else(|| (0..from).find(used))?;
        self.clock_hand = at as u32 + 1;
        let (_, group) = self.slab.get(at)?.get()?;
        Some((at as u32, group))
    }

    /// Removes the group of a slot. Returns the bytes of its heap allocations. The slot stays linked in its wheel
    /// list, and the next insertion reuses it there.
    pub(super) fn remove(&mut self, hasher: &RandomState, at: u32) -> Option<usize> {
        let hash = hash_at(&self.slab, hasher, at);
        let (_, group) = self.slab.get_mut(at as usize)?.entry.take()?;
        if let Ok(entry) = self.index.find_entry(hash, |slot| *slot == at) {
            entry.remove();
        }
        self.vacant_slots.push(at);
        self.len -= 1;
        Some(group.heap())
    }

    /// Releases unneeded capacity.
    pub(super) fn shrink(&mut self, hasher: &RandomState) {
        let Self { slab, free_list, vacant_slots, len, index, half_open, wheel_lists, .. } = self;
        if *len >= slab.capacity() / 4 * 3 {
            return;
        }
        // New slot of each group: groups behind a free slot move down.
        let mut moved = Vec::with_capacity(slab.len());
        let mut to = 0;
        for slot in slab.iter() {
            moved.push(if slot.entry.is_some() { to } else { NO_SLOT });
            to += u32::from(slot.entry.is_some());
        }
        // A slot without a group leaves its list; the list keeps the slots behind it.
        for first in wheel_lists.iter_mut() {
            let mut at = std::mem::replace(first, NO_SLOT);
            while let Some(slot) = slab.get_mut(at as usize) {
                let to = moved.get(at as usize).copied().unwrap_or(NO_SLOT);
                at = slot.next;
                if to != NO_SLOT {
                    slot.next = std::mem::replace(first, to);
                }
            }
        }
        slab.retain(|slot| slot.entry.is_some());
        slab.shrink_to(*len + *len / GROWTH_DIVISOR);
        *free_list = NO_SLOT;
        *vacant_slots = Vec::new();
        half_open.retain_mut(|(at, _)| {
            *at = moved.get(*at as usize).copied().unwrap_or(NO_SLOT);
            *at != NO_SLOT
        });
        half_open.shrink_to_fit();
        index.clear();
        for at in 0..to {
            index.insert_unique(hash_at(slab, hasher, at), at, |slot| hash_at(slab, hasher, *slot));
        }
        index.shrink_to_fit(|slot| hash_at(slab, hasher, *slot));
        if *len == 0 {
            *wheel_lists = Vec::new();
        }
    }
}

fn hash_at(slab: &[GroupSlot], hasher: &RandomState, slot: u32) -> u64 {
    let entry = slab.get(slot as usize).and_then(GroupSlot::get);
    entry.map_or(0, |(group_key, _)| hasher.hash_one(group_key))
}
