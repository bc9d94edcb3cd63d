//! A part of a rule's subjects: where they lie, when they are visited, and which of them makes room.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    hint::black_box,
};

use hashbrown::HashTable;

use super::{group_key::GroupKey, group_state::GroupState, timing_wheel::SLOTS};

/// The room for subjects grows by this part of itself.
const STEP: usize = 16;

/// The end of a list of places.
pub(super) const NONE: u32 = u32::MAX;

/// Half-open subjects of which the one with the fewest flows makes room for another.
const COMPARED: usize = 16;

/// What a subject takes but for what it has allocated: its place, and that in the index.
pub(super) const PLACE: usize = size_of::<GroupSlot>() * (STEP + 1) / STEP + 8;

/// A part of the subjects.
#[derive(Debug)]
pub(super) struct GroupShard {
    pub(super) places: Vec<GroupSlot>,
    /// The first place without a subject; each leads to the next.
    pub(super) free: u32,
    /// Places without a subject that wait in a slot of the wheel.
    pub(super) vacant: Vec<u32>,
    pub(super) len: usize,
    /// Where each subject is, by its hash.
    pub(super) index: HashTable<u32>,
    /// Places whose subject had not completed a handshake when it came, the oldest first, each with its stamp.
    pub(super) half_open: VecDeque<(u32, u32)>,
    /// Where the next subject that has completed a handshake is looked at.
    pub(super) hand: u32,
    /// Of each slot of the wheel the first place that waits in it; each leads to the next. Empty at first.
    pub(super) slots: Vec<u32>,
}

/// A subject that may make room.
pub(super) struct HalfOpen {
    pub(super) flows: usize,
    pub(super) at: u32,
    pub(super) stamp: u32,
}

/// Room for a subject.
#[derive(Debug)]
pub(super) struct GroupSlot {
    pub(super) entry: Option<(GroupKey, GroupState)>,
    /// The next place in the same list.
    pub(super) next: u32,
    /// Another for each subject that was here.
    pub(super) stamp: u32,
}

impl Default for GroupShard {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: NONE,
            vacant: Vec::new(),
            len: 0,
            index: HashTable::new(),
            half_open: VecDeque::new(),
            hand: 0,
            slots: Vec::new(),
        }
    }
}

impl GroupSlot {
    pub(super) fn is_half_open(&self) -> bool {
        self.get().is_some_and(|(_, watched)| !watched.completed() && watched.interest() < (true, false, 0))
    }

    pub(super) fn get(&self) -> Option<(&GroupKey, &GroupState)> {
        self.entry.as_ref().map(|(subject, watched)| (subject, watched))
    }

    pub(super) fn get_mut(&mut self) -> Option<(&GroupKey, &mut GroupState)> {
        self.entry.as_mut().map(|(subject, watched)| (&*subject, watched))
    }
}

impl GroupShard {
    pub(super) fn get_mut(&mut self, place: u32) -> Option<(&GroupKey, &mut GroupState)> {
        self.places.get_mut(place as usize)?.get_mut()
    }

    pub(super) fn find(&self, hash: u64, subject: &GroupKey) -> Option<u32> {
        let same = |place: &u32| {
            let entry = self.places.get(*place as usize).and_then(GroupSlot::get);
            entry.is_some_and(|(of, _)| of == subject)
        };
        self.index.find(hash, same).copied()
    }

    /// Reads what some subjects hold, so that it is in the caches when they are visited. One by one, each of several
    /// places would be waited for when it is needed; here these waits overlap.
    pub(super) fn touch(&self, places: impl Iterator<Item = u32>) {
        let found = places.filter_map(|at| self.places.get(at as usize)?.get());
        black_box(found.fold(0, |sum, (_, watched)| sum ^ watched.touch()));
    }

    /// Adds a subject that is not there, to be visited in the turn of `slot`; returns its place.
    pub(super) fn push(
        &mut self,
        hasher: &RandomState,
        hash: u64,
        entry: (GroupKey, GroupState),
        slot: usize,
        completed: bool,
    ) -> u32 {
        if self.slots.is_empty() {
            self.slots = vec![NONE; SLOTS];
        }
        let Self { places, free, vacant, index, half_open, slots, .. } = self;
        let mut waits = NONE;
        let known = vacant.pop();
        // A lane has at most 2^20 of them.
        let at = known.unwrap_or(if *free == NONE { places.len() as u32 } else { *free });
        if known.is_none()
            && let Some(first) = slots.get_mut(slot)
        {
            waits = std::mem::replace(first, at);
        }
        match places.get_mut(at as usize) {
            Some(place) if known.is_some() => {
                place.entry = Some(entry);
                place.stamp = place.stamp.wrapping_add(1);
            }
            Some(place) => {
                *free = place.next;
                *place = GroupSlot { entry: Some(entry), next: waits, stamp: place.stamp.wrapping_add(1) };
            }
            None => {
                if places.len() == places.capacity() {
                    places.reserve_exact((places.len() / STEP).max(1));
                }
                places.push(GroupSlot { entry: Some(entry), next: waits, stamp: 0 });
            }
        }
        index.insert_unique(hash, at, |place| hash_at(places, hasher, *place));
        self.len += 1;
        if !completed {
            if half_open.len() >= places.len() * 2 {
                half_open.retain(|(at, stamp)| {
                    let place = places.get(*at as usize).filter(|place| place.stamp == *stamp);
                    place.is_some_and(GroupSlot::is_half_open)
                });
            }
            let stamp = places.get(at as usize).map_or(0, |place| place.stamp);
            half_open.push_back((at, stamp));
        }
        at
    }

    /// Returns the place of the half-open subject with the fewest flows, of those that wait longest. The others of
    /// these wait again.
    pub(super) fn least(&mut self) -> Option<HalfOpen> {
        let mut least: Option<(usize, (u32, u32))> = None;
        let mut compared = 0;
        while compared < COMPARED {
            let Some((at, stamp)) = self.half_open.pop_front() else { break };
            let place =
                self.places.get(at as usize).filter(|place| place.stamp == stamp && place.is_half_open());
            let Some((_, watched)) = place.and_then(GroupSlot::get) else { continue };
            let flows = watched.events();
            compared += 1;
            match &least {
                Some((fewest, _)) if *fewest <= flows => self.half_open.push_back((at, stamp)),
                _ => {
                    let other = least.replace((flows, (at, stamp)));
                    self.half_open.extend(other.map(|(_, other)| other));
                }
            }
            if flows <= 1 {
                break;
            }
        }
        least.map(|(flows, (at, stamp))| HalfOpen { flows, at, stamp })
    }

    /// Returns some place with a subject, another one each time.
    pub(super) fn next_used(&mut self) -> Option<(u32, &GroupState)> {
        let from = self.hand as usize;
        let used = |place: &usize| self.places.get(*place).is_some_and(|place| place.entry.is_some());
        let at = (from..self.places.len()).find(used).or_else(|| (0..from).find(used))?;
        self.hand = at as u32 + 1;
        let (_, watched) = self.places.get(at)?.get()?;
        Some((at as u32, watched))
    }

    /// Forgets the subject of a place; returns the bytes that it had allocated. The place goes on waiting in its
    /// slot: the next subject takes it there.
    pub(super) fn remove(&mut self, hasher: &RandomState, at: u32) -> Option<usize> {
        let hash = hash_at(&self.places, hasher, at);
        let (_, watched) = self.places.get_mut(at as usize)?.entry.take()?;
        if let Ok(found) = self.index.find_entry(hash, |known| *known == at) {
            found.remove();
        }
        self.vacant.push(at);
        self.len -= 1;
        Some(watched.heap())
    }

    /// Gives back room that is not needed.
    pub(super) fn shrink(&mut self, hasher: &RandomState) {
        let Self { places, free, vacant, len, index, half_open, slots, .. } = self;
        if *len >= places.capacity() / 4 * 3 {
            return;
        }
        // Where each subject comes to be: those behind a free place move up.
        let mut moved = Vec::with_capacity(places.len());
        let mut to = 0;
        for place in places.iter() {
            moved.push(if place.entry.is_some() { to } else { NONE });
            to += u32::from(place.entry.is_some());
        }
        // A place that waits without a subject leaves its list; those behind it stay.
        for first in slots.iter_mut() {
            let mut at = std::mem::replace(first, NONE);
            while let Some(place) = places.get_mut(at as usize) {
                let to = moved.get(at as usize).copied().unwrap_or(NONE);
                at = place.next;
                if to != NONE {
                    place.next = std::mem::replace(first, to);
                }
            }
        }
        places.retain(|place| place.entry.is_some());
        places.shrink_to(*len + *len / STEP);
        *free = NONE;
        *vacant = Vec::new();
        half_open.retain_mut(|(at, _)| {
            *at = moved.get(*at as usize).copied().unwrap_or(NONE);
            *at != NONE
        });
        half_open.shrink_to_fit();
        index.clear();
        for at in 0..to {
            index.insert_unique(hash_at(places, hasher, at), at, |place| hash_at(places, hasher, *place));
        }
        index.shrink_to_fit(|place| hash_at(places, hasher, *place));
        if *len == 0 {
            *slots = Vec::new();
        }
    }
}

fn hash_at(places: &[GroupSlot], hasher: &RandomState, place: u32) -> u64 {
    let entry = places.get(place as usize).and_then(GroupSlot::get);
    entry.map_or(0, |(subject, _)| hasher.hash_one(subject))
}
