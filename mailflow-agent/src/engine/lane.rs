//! The subjects of one rule, in parts that are swept one after the other.
//!
//! There may be a million of them. So they lie next to each other, with room for an eighth more, and only their
//! places are in a hash table, whose empty places then cost little.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use hashbrown::HashTable;

use super::{plan::Plan, subject::Subject, time::Time, watched::Watched};

/// Parts. Each sweep goes over one.
pub(super) const SHARDS: usize = 64;

/// Most subjects of a rule. Those beyond are not watched until others are forgotten, and counted.
pub(super) const MOST: usize = 1 << 20;

/// The room for subjects grows by this part of itself.
const STEP: usize = 8;

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
    /// Subjects some of whose packets found the flow table full, and when last.
    overflowed: HashMap<Subject, Time, RandomState>,
}

/// A part of them.
#[derive(Debug, Default)]
struct Shard {
    entries: Vec<(Subject, Watched)>,
    /// Where each entry is, by its subject's hash.
    places: HashTable<u32>,
}

impl Default for Lane {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { shards, hasher: RandomState::default(), len: 0, overflowed: HashMap::default() }
    }
}

impl Lane {
    /// A subject, if it is remembered or there is room for it.
    pub(super) fn enter(&mut self, plan: &Plan, subject: Subject) -> Option<(&Subject, &mut Watched)> {
        let Self { shards, hasher, len, .. } = self;
        let hash = hasher.hash_one(&subject);
        let shard = shards.get_mut(number(hash))?;
        let place = match shard.place(hash, &subject) {
            Some(place) => place,
            None if *len >= MOST => return None,
            None => {
                *len += 1;
                shard.push(hasher, hash, subject, Watched::new(plan))
            }
        };
        shard.entries.get_mut(place).map(|(subject, watched)| (&*subject, watched))
    }

    /// Puts a subject back as it was saved.
    pub(super) fn put(&mut self, subject: Subject, watched: Watched) {
        let hash = self.hasher.hash_one(&subject);
        let Some(shard) = self.shards.get_mut(number(hash)) else { return };
        match shard.place(hash, &subject).and_then(|place| shard.entries.get_mut(place)) {
            Some(known) => known.1 = watched,
            None => {
                self.len += 1;
                shard.push(&self.hasher, hash, subject, watched);
            }
        }
    }

    /// A subject, if it is remembered.
    pub(super) fn get_mut(&mut self, subject: &Subject) -> Option<&mut Watched> {
        let hash = self.hasher.hash_one(subject);
        let shard = self.shards.get_mut(number(hash))?;
        let place = shard.place(hash, subject)?;
        shard.entries.get_mut(place).map(|(_, watched)| watched)
    }

    /// Notes that packets of `subject` found the flow table full.
    pub(super) fn overflow(&mut self, subject: Subject, time: Time) {
        let last = self.overflowed.entry(subject).or_default();
        *last = time.max(*last);
    }

    /// Whether that was within the rule's memory.
    pub(super) fn overflowed(&self, subject: &Subject) -> bool {
        !self.overflowed.is_empty() && self.overflowed.contains_key(subject)
    }

    /// Every subject.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Subject, &Watched)> {
        self.shards.iter().flat_map(|shard| &shard.entries).map(|(subject, watched)| (subject, watched))
    }

    /// Every subject.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Subject, &mut Watched)> {
        let entries = self.shards.iter_mut().flat_map(|shard| &mut shard.entries);
        entries.map(|(subject, watched)| (&*subject, watched))
    }

    /// Every subject of one shard.
    pub(super) fn part(&self, shard: usize) -> impl Iterator<Item = (&Subject, &Watched)> {
        let entries = self.shards.get(shard).into_iter().flat_map(|shard| &shard.entries);
        entries.map(|(subject, watched)| (subject, watched))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Forgets, in one shard, what cannot matter at `clock` any more.
    pub(super) fn sweep(&mut self, plan: &Plan, shard: usize, clock: Time) {
        self.overflowed.retain(|_, last| *last + plan.retention > clock);
        let Some(shard) = self.shards.get_mut(shard) else { return };
        let before = shard.entries.len();
        shard.entries.retain_mut(|(_, watched)| watched.prune(plan, clock));
        if shard.entries.len() < before {
            self.len -= before - shard.entries.len();
            shard.index(&self.hasher);
        }
    }
}

impl Shard {
    fn place(&self, hash: u64, subject: &Subject) -> Option<usize> {
        let same = |place: &u32| self.entries.get(*place as usize).is_some_and(|(of, _)| of == subject);
        self.places.find(hash, same).map(|place| *place as usize)
    }

    /// Adds a subject that is not there; its place.
    fn push(&mut self, hasher: &RandomState, hash: u64, subject: Subject, watched: Watched) -> usize {
        let Self { entries, places } = self;
        let place = entries.len();
        if place == entries.capacity() {
            entries.reserve_exact((place / STEP).max(1));
        }
        entries.push((subject, watched));
        let again = |place: &u32| entries.get(*place as usize).map_or(0, |(of, _)| hasher.hash_one(of));
        // A lane has at most 2^20 of them.
        places.insert_unique(hash, place as u32, again);
        place
    }

    /// Looks up anew where everything is, and gives back room that is not needed.
    fn index(&mut self, hasher: &RandomState) {
        let Self { entries, places } = self;
        if entries.len() < entries.capacity() / 4 * 3 {
            entries.shrink_to(entries.len() + entries.len() / STEP);
        }
        places.clear();
        let again = |place: &u32| entries.get(*place as usize).map_or(0, |(of, _)| hasher.hash_one(of));
        for (place, (subject, _)) in (0..).zip(entries.iter()) {
            places.insert_unique(hasher.hash_one(subject), place, again);
        }
        places.shrink_to_fit(again);
    }
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
        let (found, watched) = lane.enter(plan, subject(n)).unwrap();
        assert_eq!(*found, subject(n));
        watched.book(plan, time, &news);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// What comes, is swept away and comes again is what a plain map holds.
        #[test]
        fn it_holds_what_a_plain_map_holds(steps in prop::collection::vec((0..400u32, 0..60u64), 1..1_500)) {
            let (plan, mut lane) = (plan(), Lane::default());
            let mut plain: HashMap<u32, Vec<u64>> = HashMap::new();
            let mut now = 10_000;
            for (n, pause) in steps {
                now += pause;
                see(&mut lane, &plan, n, now);
                plain.entry(n).or_default().push(now);
                if pause == 7 {
                    (0..SHARDS).for_each(|shard| lane.sweep(&plan, shard, at(now)));
                    let retention = plan.retention.as_secs();
                    plain.values_mut().for_each(|times| times.retain(|time| time + retention > now));
                    plain.retain(|_, times| !times.is_empty());
                }
                prop_assert_eq!(lane.len(), plain.len());
            }
            prop_assert_eq!(lane.iter().count(), plain.len());
            prop_assert_eq!((0..SHARDS).map(|shard| lane.part(shard).count()).sum::<usize>(), plain.len());
            for n in 0..400 {
                prop_assert_eq!(lane.get_mut(&subject(n)).is_some(), plain.contains_key(&n));
            }
        }
    }

    #[test]
    fn when_it_is_full_new_ones_are_refused_until_others_are_forgotten() {
        let (plan, mut lane) = (plan(), Lane::default());
        (0..MOST as u32).for_each(|n| see(&mut lane, &plan, n, 100));
        assert!(lane.enter(&plan, subject(MOST as u32)).is_none());
        assert!(lane.enter(&plan, subject(7)).is_some());
        assert_eq!(lane.len(), MOST);
        let later = at(100) + plan.retention;
        (0..SHARDS).for_each(|shard| lane.sweep(&plan, shard, later));
        assert_eq!(
            (lane.len(), lane.shards.iter().map(|shard| shard.entries.capacity()).max()),
            (0, Some(0))
        );
        assert!(lane.enter(&plan, subject(MOST as u32)).is_some());
    }
}
