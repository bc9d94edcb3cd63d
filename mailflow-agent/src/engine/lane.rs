//! The subjects of one rule, in shards, each with the slots of an expiry wheel.
//!
//! There may be a million of them. So they lie next to each other, with room for an eighth more, and only their
//! places are in a hash table, whose empty places then cost little.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use hashbrown::HashTable;

pub(super) use super::expiry::SHARDS;
use super::{
    expiry::{SLOTS, Turns},
    plan::Plan,
    subject::Subject,
    time::Time,
    watched::Watched,
};

/// Most subjects of a rule. Those beyond are not watched until others are forgotten, and counted.
pub(super) const MOST: usize = 1 << 20;

/// The room for subjects grows by this part of itself.
const STEP: usize = 8;

/// The end of a list of places.
const NONE: u32 = u32::MAX;

/// Which flows are taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Known {
    /// Those nobody said anything about.
    No,
    /// Those on an allow-list.
    Allowed,
}

/// Subjects with what is remembered of them.
#[derive(Debug)]
pub(super) struct Lane {
    shards: Vec<Shard>,
    hasher: RandomState,
    len: usize,
    turns: Turns,
    overflowed: Overflowed,
}

/// Subjects some of whose packets found the flow table full, and when last.
#[derive(Debug, Default)]
struct Overflowed {
    last: HashMap<Subject, Time, RandomState>,
    /// When those are forgotten whose last packet is too long ago.
    next: Time,
}

/// A part of the subjects.
#[derive(Debug)]
struct Shard {
    places: Vec<Place>,
    /// The first place without a subject; each leads to the next.
    free: u32,
    len: usize,
    /// Where each subject is, by its hash.
    index: HashTable<u32>,
    /// Of each slot of the wheel the first place that waits in it; each leads to the next. Empty at first.
    slots: Vec<u32>,
}

/// Room for a subject.
#[derive(Debug)]
struct Place {
    entry: Option<(Subject, Watched)>,
    /// The next place in the same list.
    next: u32,
}

impl Default for Shard {
    fn default() -> Self {
        Self { places: Vec::new(), free: NONE, len: 0, index: HashTable::new(), slots: Vec::new() }
    }
}

impl Default for Lane {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        let (hasher, turns, overflowed) = (RandomState::default(), Turns::default(), Overflowed::default());
        Self { shards, hasher, len: 0, turns, overflowed }
    }
}

impl Lane {
    /// Returns a subject, if it is remembered or there is room for it.
    pub(super) fn enter(
        &mut self,
        plan: &Plan,
        clock: Time,
        subject: Subject,
    ) -> Option<(&Subject, &mut Watched)> {
        let Self { shards, hasher, len, turns, .. } = self;
        let hash = hasher.hash_one(&subject);
        let number = number(hash);
        let shard = shards.get_mut(number)?;
        let place = match shard.find(hash, &subject) {
            Some(place) => place,
            None if *len >= MOST => return None,
            None => {
                if *len == 0 {
                    // There was nothing to visit meanwhile.
                    *turns = Turns::new(plan.retention, clock);
                }
                *len += 1;
                let slot = turns.slot(number, clock + plan.soonest);
                shard.push(hasher, hash, (subject, Watched::new(plan)), slot)
            }
        };
        shard.get_mut(place)
    }

    /// Puts a subject back as it was saved. [`Lane::schedule`] follows.
    pub(super) fn put(&mut self, subject: Subject, watched: Watched) {
        let hash = self.hasher.hash_one(&subject);
        let Some(shard) = self.shards.get_mut(number(hash)) else { return };
        match shard.find(hash, &subject).and_then(|place| shard.get_mut(place)) {
            Some((_, known)) => *known = watched,
            None => {
                self.len += 1;
                shard.push(&self.hasher, hash, (subject, watched), 0);
            }
        }
    }

    /// Decides anew when each subject is visited: others were put in, or other times hold.
    pub(super) fn schedule(&mut self, plan: &Plan, clock: Time) {
        self.turns = Turns::new(plan.retention, clock);
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let Shard { places, slots, .. } = shard;
            slots.fill(NONE);
            for (at, place) in (0..).zip(places.iter_mut()) {
                let Some((_, watched)) = &place.entry else { continue };
                let slot = self.turns.slot(number, watched.next_visit(plan, clock));
                if let Some(first) = slots.get_mut(slot) {
                    place.next = std::mem::replace(first, at);
                }
            }
        }
    }

    /// Returns a subject, if it is remembered.
    pub(super) fn get_mut(&mut self, subject: &Subject) -> Option<&mut Watched> {
        let hash = self.hasher.hash_one(subject);
        let shard = self.shards.get_mut(number(hash))?;
        let place = shard.find(hash, subject)?;
        shard.get_mut(place).map(|(_, watched)| watched)
    }

    /// Notes that packets of `subject` found the flow table full.
    pub(super) fn overflow(&mut self, subject: Subject, time: Time) {
        let last = self.overflowed.last.entry(subject).or_default();
        *last = time.max(*last);
    }

    /// Returns true if that was within `retention`.
    pub(super) fn overflowed(&self, subject: &Subject, retention: Duration, clock: Time) -> bool {
        let Overflowed { last, .. } = &self.overflowed;
        !last.is_empty() && last.get(subject).is_some_and(|last| *last + retention > clock)
    }

    /// Returns every subject.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Subject, &Watched)> {
        self.shards.iter().flat_map(|shard| &shard.places).filter_map(Place::get)
    }

    /// Returns every subject.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Subject, &mut Watched)> {
        let places = self.shards.iter_mut().flat_map(|shard| &mut shard.places);
        places.filter_map(Place::get_mut)
    }

    /// Returns the subjects at some places of one shard, and whether there are further places.
    pub(super) fn part(
        &self,
        shard: usize,
        from: usize,
        most: usize,
    ) -> (impl Iterator<Item = (&Subject, &Watched)>, bool) {
        let places = self.shards.get(shard).and_then(|shard| shard.places.get(from..)).unwrap_or_default();
        (places.iter().take(most).filter_map(Place::get), places.len() > most)
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Forgets what cannot matter at `clock` any more, of the subjects whose visit is due; returns how many those are.
    pub(super) fn expire(&mut self, plan: &Plan, clock: Time) -> usize {
        let Self { shards, hasher, len, turns, overflowed } = self;
        overflowed.expire(plan, clock);
        let mut visits = 0;
        if *len == 0 {
            return visits;
        }
        for (number, slot) in turns.pass(clock) {
            let Some(shard) = shards.get_mut(number) else { continue };
            let mut next = shard.slots.get_mut(slot).map_or(NONE, |first| std::mem::replace(first, NONE));
            let before = shard.len;
            while let Some(place) = shard.places.get_mut(next as usize) {
                let at = std::mem::replace(&mut next, place.next);
                let Some((subject, watched)) = &mut place.entry else { continue };
                visits += 1;
                if watched.prune(plan, clock) {
                    let slot = turns.slot(number, watched.next_visit(plan, clock));
                    if let Some(first) = shard.slots.get_mut(slot) {
                        place.next = std::mem::replace(first, at);
                    }
                    continue;
                }
                let hash = hasher.hash_one(&*subject);
                if let Ok(found) = shard.index.find_entry(hash, |known| *known == at) {
                    found.remove();
                }
                (place.entry, place.next) = (None, std::mem::replace(&mut shard.free, at));
                shard.len -= 1;
            }
            if shard.len < before {
                *len -= before - shard.len;
                shard.shrink(hasher);
            }
        }
        visits
    }
}

impl Overflowed {
    /// Forgets those whose last packet is too long ago; all are gone over a few times in `plan.retention`.
    fn expire(&mut self, plan: &Plan, clock: Time) {
        if self.last.is_empty() || clock < self.next {
            return;
        }
        self.next = clock + plan.retention / SHARDS as u32;
        self.last.retain(|_, last| *last + plan.retention > clock);
    }
}

impl Place {
    fn get(&self) -> Option<(&Subject, &Watched)> {
        self.entry.as_ref().map(|(subject, watched)| (subject, watched))
    }

    fn get_mut(&mut self) -> Option<(&Subject, &mut Watched)> {
        self.entry.as_mut().map(|(subject, watched)| (&*subject, watched))
    }
}

impl Shard {
    fn get_mut(&mut self, place: u32) -> Option<(&Subject, &mut Watched)> {
        self.places.get_mut(place as usize)?.get_mut()
    }

    fn find(&self, hash: u64, subject: &Subject) -> Option<u32> {
        let same = |place: &u32| {
            let entry = self.places.get(*place as usize).and_then(Place::get);
            entry.is_some_and(|(of, _)| of == subject)
        };
        self.index.find(hash, same).copied()
    }

    /// Adds a subject that is not there, to be visited in the turn of `slot`; returns its place.
    fn push(&mut self, hasher: &RandomState, hash: u64, entry: (Subject, Watched), slot: usize) -> u32 {
        if self.slots.is_empty() {
            self.slots = vec![NONE; SLOTS];
        }
        let Self { places, free, index, slots, .. } = self;
        let mut waits = NONE;
        // A lane has at most 2^20 of them.
        let at = if *free == NONE { places.len() as u32 } else { *free };
        if let Some(first) = slots.get_mut(slot) {
            waits = std::mem::replace(first, at);
        }
        match places.get_mut(at as usize) {
            Some(place) => {
                *free = place.next;
                *place = Place { entry: Some(entry), next: waits };
            }
            None => {
                if places.len() == places.capacity() {
                    places.reserve_exact((places.len() / STEP).max(1));
                }
                places.push(Place { entry: Some(entry), next: waits });
            }
        }
        index.insert_unique(hash, at, |place| hash_at(places, hasher, *place));
        self.len += 1;
        at
    }

    /// Gives back room that is not needed.
    fn shrink(&mut self, hasher: &RandomState) {
        let Self { places, free, len, index, slots } = self;
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
        let follow = |next: &mut u32| *next = moved.get(*next as usize).copied().unwrap_or(NONE);
        places.retain(|place| place.entry.is_some());
        places.shrink_to(*len + *len / STEP);
        places.iter_mut().for_each(|place| follow(&mut place.next));
        slots.iter_mut().for_each(follow);
        *free = NONE;
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

fn hash_at(places: &[Place], hasher: &RandomState, place: u32) -> u64 {
    let entry = places.get(place as usize).and_then(Place::get);
    entry.map_or(0, |(subject, _)| hasher.hash_one(subject))
}

/// The shard of a hash. Its low and its highest bits choose the place within that.
fn number(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use proptest::prelude::*;

    use super::{
        super::{event::Source, fixture, fixture::at, plan::News, store::Mark, tally::Kinds},
        *,
    };

    fn subject(n: u32) -> Subject {
        Subject::Source(Source::of(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 64))
    }

    fn plan() -> Plan {
        Plan::new(fixture::rule(), Duration::from_secs(300))
    }

    /// One more flow of a subject.
    fn see(lane: &mut Lane, plan: &Plan, n: u32, seconds: u64) {
        let (time, mark): (_, Mark) = (at(seconds), [0; 16]);
        let (gains, inputs) = (Default::default(), super::super::inputs::Inputs::all());
        let news =
            News { time, kinds: Kinds::FLOWS, gains, inputs, source: mark, destination: mark, port: 25 };
        let (found, watched) = lane.enter(plan, time, subject(n)).unwrap();
        assert_eq!(*found, subject(n));
        watched.book(plan, time, &news);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// What comes, is forgotten and comes again is what a plain map holds; what is visited late is held longer.
        #[test]
        fn it_holds_what_a_plain_map_holds(steps in prop::collection::vec((0..400u32, 0..60u64), 1..1_500)) {
            let (plan, mut lane) = (plan(), Lane::default());
            let mut plain: HashMap<u32, u64> = HashMap::new();
            let mut now = 10_000;
            let (retention, width) = (plan.retention.as_secs(), plan.retention.as_secs() / 64 + 2);
            for (n, pause) in steps {
                now += pause;
                see(&mut lane, &plan, n, now);
                plain.insert(n, now);
                lane.expire(&plan, at(now));
                let held = |more: u64| {
                    plain.iter().filter(move |(_, last)| **last + retention + more > now).map(|(n, _)| *n)
                };
                prop_assert!(held(0).all(|n| lane.get_mut(&subject(n)).is_some()), "forgotten too early");
                prop_assert!(lane.len() <= held(width).count(), "held for too long");
            }
            prop_assert_eq!(lane.iter().count(), lane.len());
            let parts = (0..SHARDS).flat_map(|shard| [(shard, 0, 3), (shard, 3, usize::MAX)]);
            prop_assert_eq!(parts.map(|(shard, from, most)| lane.part(shard, from, most).0.count()).sum::<usize>(), lane.len());
            // Decided anew at some moment, the visits find the same.
            lane.schedule(&plan, at(now));
            lane.expire(&plan, at(now + retention + width));
            prop_assert_eq!((lane.len(), lane.iter().count()), (0, 0));
        }
    }

    #[test]
    fn a_quiet_subject_is_visited_once_and_one_with_records_once_in_its_memory() {
        let (plan, mut lane) = (plan(), Lane::default());
        let mut visits = 0;
        // 100 subjects with a record a minute for a day, 100 with one in all.
        for minute in 0..1_440 {
            let busy = 0..100;
            busy.chain((0..100).map(|n| n + 1_000 + minute * 100).filter(|n| *n < 1_100))
                .for_each(|n| see(&mut lane, &plan, n, 1_000 + u64::from(minute) * 60));
            for second in 0..60 {
                visits += lane.expire(&plan, at(1_000 + u64::from(minute) * 60 + second));
            }
        }
        let day = 86_400 / plan.retention.as_secs() as usize;
        assert!((100 + 100 * day / 2..=200 + 100 * (day + 1)).contains(&visits), "{visits} visits");
    }

    #[test]
    fn when_it_is_full_new_ones_are_refused_until_others_are_forgotten() {
        let (plan, mut lane) = (plan(), Lane::default());
        (0..MOST as u32).for_each(|n| see(&mut lane, &plan, n, 100));
        assert!(lane.enter(&plan, at(100), subject(MOST as u32)).is_none());
        assert!(lane.enter(&plan, at(100), subject(7)).is_some());
        assert_eq!(lane.len(), MOST);
        lane.expire(&plan, at(100) + plan.retention * 2);
        let room = lane.shards.iter().map(|shard| shard.places.capacity() + shard.index.capacity()).max();
        assert_eq!((lane.len(), room), (0, Some(0)));
        assert!(lane.enter(&plan, at(100), subject(MOST as u32)).is_some());
    }
}
