//! The subjects of one rule, in shards, each with the slots of an expiry wheel.
//!
//! There may be a million of them. So they lie next to each other, with room for a sixteenth more, and only their
//! places are in a hash table, whose empty places then cost little.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    group_key::GroupKey,
    group_shard::{GroupShard, GroupSlot, HalfOpen, NONE, PLACE},
    group_state::GroupState,
    timing_wheel::{SHARDS, TimingWheel},
};
use crate::{
    rule::{RuleLimits, compiled::CompiledRule, limits::MOST},
    time::Time,
};

/// Shards in which such a one is looked for, until there is one of a single flow.
const COMPARED_SHARDS: usize = 8;

/// Other subjects of which the least interesting one does, where there is no half-open one.
const SAMPLED: usize = 64;

/// Subjects that are brought into the caches together before they are visited.
const AHEAD: usize = 32;

/// Which flows are taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum AllowStatus {
    /// Those nobody said anything about.
    No,
    /// Those on an allow-list.
    Allowed,
}

/// Subjects with what is remembered of them.
#[derive(Debug)]
pub(crate) struct GroupTable {
    shards: Vec<GroupShard>,
    hasher: RandomState,
    len: usize,
    /// Bytes that they take.
    memory: usize,
    turns: TimingWheel,
    overflowed: OverflowedGroups,
}

/// Most subjects of which it is remembered by themselves that packets found the flow table full.
const MAX_OVERFLOWED: usize = 65_536;

/// Subjects some of whose packets found the flow table full, and when last.
#[derive(Debug, Default)]
struct OverflowedGroups {
    last: HashMap<GroupKey, Time, RandomState>,
    /// The last time of a subject for which there was no room. It may be any.
    of_any: Option<Time>,
    /// When those are forgotten whose last packet is too long ago.
    next: Time,
}

/// The overflowed subjects of a lane, in a form that can be kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedOverflowedGroups {
    last: Vec<(GroupKey, Time)>,
    of_any: Option<Time>,
}

impl Default for GroupTable {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| GroupShard::default()).collect();
        let (hasher, turns, overflowed) =
            (RandomState::default(), TimingWheel::default(), OverflowedGroups::default());
        Self { shards, hasher, len: 0, memory: 0, turns, overflowed }
    }
}

impl GroupTable {
    /// Returns a subject, if it is remembered or there is room for it, and whether it is new. [`GroupTable::room`] comes
    /// before. `completed` says whether what follows completed a handshake.
    pub(crate) fn enter(
        &mut self,
        plan: &CompiledRule,
        clock: Time,
        (subject, completed): (GroupKey, bool),
        limits: &RuleLimits,
    ) -> Option<(&GroupKey, &mut GroupState, bool)> {
        let full = self.is_full(limits);
        let Self { shards, hasher, len, memory, turns, .. } = self;
        let hash = hasher.hash_one(&subject);
        let number = number(hash);
        let shard = shards.get_mut(number)?;
        let known = shard.find(hash, &subject);
        let place = match known {
            Some(place) => place,
            None if full => return None,
            None => {
                if *len == 0 {
                    // There was nothing to visit meanwhile.
                    *turns = TimingWheel::new(plan.retention, clock);
                }
                *len += 1;
                *memory += PLACE;
                let slot = turns.slot(number, clock + plan.soonest);
                shard.push(hasher, hash, (subject, GroupState::small(plan)), slot, completed)
            }
        };
        let (subject, watched) = shard.get_mut(place)?;
        Some((subject, watched, known.is_none()))
    }

    /// Makes room where a limit is reached: the least interesting subject is forgotten, which is one that has
    /// completed no handshake, has few flows and is old, of the shard of `subject` if there is one. Returns how many were.
    pub(crate) fn room(&mut self, limits: &RuleLimits, subject: &GroupKey) -> u64 {
        /// Subjects forgotten at once: what grows beyond the limit by one record shrinks by more.
        const MOST_AT_ONCE: u64 = 8;
        if !self.is_full(limits) {
            return 0;
        }
        let hash = self.hasher.hash_one(subject);
        let (mut forgotten, near) = (0, number(hash));
        let known = self.shards.get(near).is_some_and(|shard| shard.find(hash, subject).is_some());
        while forgotten < MOST_AT_ONCE
            && (self.memory >= limits.memory || (!known && self.len >= limits.subjects.min(MOST)))
        {
            let Some((number, place)) = self.least(near) else { break };
            let Self { shards, hasher, len, memory, .. } = self;
            let Some(shard) = shards.get_mut(number) else { break };
            let Some(heap) = shard.remove(hasher, place) else { break };
            *len -= 1;
            *memory = memory.saturating_sub(PLACE + heap);
            forgotten += 1;
        }
        forgotten
    }

    /// A subject grew, or shrank.
    pub(crate) fn account(&mut self, before: usize, after: usize) {
        self.memory = (self.memory + after).saturating_sub(before);
    }

    /// Returns the bytes that the subjects take.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    fn is_full(&self, limits: &RuleLimits) -> bool {
        self.len >= limits.subjects.min(MOST) || self.memory >= limits.memory
    }

    /// Returns the shard and the place of a subject that can be forgotten.
    fn least(&mut self, first: usize) -> Option<(usize, u32)> {
        let mut half_open: Option<(usize, HalfOpen)> = None;
        let mut shards = 0;
        for number in (0..SHARDS).map(|step| (first + step) % SHARDS) {
            let Some(found) = self.shards.get_mut(number)?.least() else { continue };
            shards += 1;
            let other = match &half_open {
                Some((_, known)) if known.flows <= found.flows => Some((number, found)),
                _ => half_open.replace((number, found)),
            };
            // What is not chosen waits on.
            if let Some((number, HalfOpen { at, stamp, .. })) = other {
                self.shards.get_mut(number)?.half_open.push_front((at, stamp));
            }
            if shards >= COMPARED_SHARDS || half_open.as_ref().is_some_and(|(_, found)| found.flows <= 1) {
                break;
            }
        }
        if let Some((number, found)) = half_open {
            return Some((number, found.at));
        }
        // All have completed a handshake. One incident that is forgotten would be an alert without an end.
        let mut least = None;
        for step in 0..SAMPLED {
            let number = (first + step) % SHARDS;
            let Some(shard) = self.shards.get_mut(number).filter(|shard| shard.len > 0) else { continue };
            let Some((place, watched)) = shard.next_used() else { continue };
            let interest = watched.interest();
            if !watched.fires() && least.as_ref().is_none_or(|(other, _)| interest < *other) {
                least = Some((interest, (number, place)));
            }
        }
        least.map(|(_, found)| found)
    }

    /// Puts a subject back as it was saved. [`GroupTable::schedule`] follows.
    pub(crate) fn put(&mut self, subject: GroupKey, watched: GroupState) {
        let hash = self.hasher.hash_one(&subject);
        let Some(shard) = self.shards.get_mut(number(hash)) else { return };
        match shard.find(hash, &subject).and_then(|place| shard.get_mut(place)) {
            Some((_, known)) => *known = watched,
            None => {
                self.len += 1;
                self.memory += PLACE + watched.heap();
                let completed = watched.completed();
                shard.push(&self.hasher, hash, (subject, watched), 0, completed);
            }
        }
    }

    /// Decides anew when each subject is visited: others were put in, or other times hold.
    pub(crate) fn schedule(&mut self, plan: &CompiledRule, clock: Time) {
        self.turns = TimingWheel::new(plan.retention, clock);
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let GroupShard { places, slots, free, vacant, .. } = shard;
            slots.fill(NONE);
            // What waited without a subject waits no more.
            for at in vacant.drain(..) {
                if let Some(place) = places.get_mut(at as usize) {
                    place.next = std::mem::replace(free, at);
                }
            }
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
    pub(crate) fn get_mut(&mut self, subject: &GroupKey) -> Option<&mut GroupState> {
        let hash = self.hasher.hash_one(subject);
        let shard = self.shards.get_mut(number(hash))?;
        let place = shard.find(hash, subject)?;
        shard.get_mut(place).map(|(_, watched)| watched)
    }

    /// Returns a subject, if it is remembered.
    pub(crate) fn get(&self, subject: &GroupKey) -> Option<&GroupState> {
        let hash = self.hasher.hash_one(subject);
        let shard = self.shards.get(number(hash))?;
        let place = shard.find(hash, subject)?;
        shard.places.get(place as usize)?.get().map(|(_, watched)| watched)
    }

    /// Notes that packets of `subject` found the flow table full.
    pub(crate) fn overflow(&mut self, subject: GroupKey, time: Time) {
        let OverflowedGroups { last, of_any, .. } = &mut self.overflowed;
        let full = last.len() >= MAX_OVERFLOWED;
        match last.entry(subject) {
            Entry::Vacant(_) if full => *of_any = Some(time).max(*of_any),
            entry => {
                let last = entry.or_default();
                *last = time.max(*last);
            }
        }
    }

    /// Returns true if that was within `retention`.
    pub(crate) fn overflowed(&self, subject: &GroupKey, retention: Duration, clock: Time) -> bool {
        let OverflowedGroups { last, of_any, .. } = &self.overflowed;
        let within = |last: &Time| *last + retention > clock;
        !last.is_empty() && last.get(subject).is_some_and(within) || of_any.as_ref().is_some_and(within)
    }

    /// Returns the subjects whose packets found the flow table full, as they are kept over a restart.
    pub(crate) fn save_overflow(&self) -> SavedOverflowedGroups {
        let OverflowedGroups { last, of_any, .. } = &self.overflowed;
        SavedOverflowedGroups {
            last: last.iter().map(|(subject, time)| (subject.clone(), *time)).collect(),
            of_any: *of_any,
        }
    }

    /// Goes on from what was kept.
    pub(crate) fn restore_overflow(&mut self, state: SavedOverflowedGroups) {
        self.overflowed.of_any = state.of_any;
        for (subject, time) in state.last {
            self.overflow(subject, time);
        }
    }

    /// Returns every subject.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&GroupKey, &GroupState)> {
        self.shards.iter().flat_map(|shard| &shard.places).filter_map(GroupSlot::get)
    }

    /// Returns every subject.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&GroupKey, &mut GroupState)> {
        let places = self.shards.iter_mut().flat_map(|shard| &mut shard.places);
        places.filter_map(GroupSlot::get_mut)
    }

    /// Returns the subjects at some places of one shard, and whether there are further places.
    pub(crate) fn part(
        &self,
        shard: usize,
        from: usize,
        most: usize,
    ) -> (impl Iterator<Item = (&GroupKey, &GroupState)>, bool) {
        let places = self.shards.get(shard).and_then(|shard| shard.places.get(from..)).unwrap_or_default();
        (places.iter().take(most).filter_map(GroupSlot::get), places.len() > most)
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Forgets what cannot matter at `clock` any more, of the subjects whose visit is due; returns how many those are.
    pub(crate) fn expire(&mut self, plan: &CompiledRule, clock: Time) -> usize {
        let Self { shards, hasher, len, memory, turns, overflowed, .. } = self;
        overflowed.expire(plan, clock);
        let (mut visits, mut due) = (0, Vec::new());
        if *len == 0 {
            return visits;
        }
        for (number, slot) in turns.pass(clock) {
            let Some(shard) = shards.get_mut(number) else { continue };
            let mut next = shard.slots.get_mut(slot).map_or(NONE, |first| std::mem::replace(first, NONE));
            let before = shard.len;
            due.clear();
            while let Some(place) = shard.places.get(next as usize) {
                due.push(next);
                next = place.next;
            }
            for (turn, at) in due.iter().copied().enumerate() {
                if turn % AHEAD == 0 {
                    let ahead = due.iter().skip(turn).take(AHEAD);
                    shard.touch(ahead.copied());
                }
                let Some(place) = shard.places.get_mut(at as usize) else { continue };
                let Some((subject, watched)) = &mut place.entry else {
                    // It waits for another subject, and for its turn.
                    let slot = turns.slot(number, clock + plan.retention);
                    if let Some(first) = shard.slots.get_mut(slot) {
                        place.next = std::mem::replace(first, at);
                    }
                    continue;
                };
                visits += 1;
                let before = watched.heap();
                if watched.prune(plan, clock) {
                    *memory = memory.saturating_sub(before - watched.heap().min(before));
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
                *memory = memory.saturating_sub(PLACE + before);
            }
            if shard.len < before {
                *len -= before - shard.len;
                shard.shrink(hasher);
            }
        }
        visits
    }
}

impl OverflowedGroups {
    /// Forgets those whose last packet is too long ago; all are gone over a few times in `plan.retention`.
    fn expire(&mut self, plan: &CompiledRule, clock: Time) {
        if self.last.is_empty() || clock < self.next {
            return;
        }
        self.next = clock + plan.retention / SHARDS as u32;
        self.last.retain(|_, last| *last + plan.retention > clock);
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

    use super::*;
    use crate::{
        eval::{group_key::Source, window::distinct::EndpointBytes},
        fixture::{self, at},
        flow::class::FlowClasses,
        rule::compiled::RecordDelta,
    };

    fn subject(n: u32) -> GroupKey {
        GroupKey::Source(Source::of(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 64))
    }

    fn plan() -> CompiledRule {
        CompiledRule::new(fixture::rule(), Duration::from_secs(300))
    }

    /// One more flow of a subject.
    fn see(lane: &mut GroupTable, plan: &CompiledRule, n: u32, seconds: u64) {
        let (time, mark): (_, EndpointBytes) = (at(seconds), [0; 16]);
        let (gains, inputs) = (Default::default(), crate::flow::RecordFields::all());
        let news = RecordDelta {
            time,
            kinds: FlowClasses::FLOWS,
            gains,
            inputs,
            source: mark,
            destination: mark,
            port: 25,
            completed: false,
        };
        let (found, watched, _) = lane.enter(plan, time, (subject(n), false), &RuleLimits::WIDEST).unwrap();
        assert_eq!(*found, subject(n));
        watched.book(plan, time, &news);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// What comes, is forgotten and comes again is what a plain map holds; what is visited late is held longer.
        #[test]
        fn it_holds_what_a_plain_map_holds(steps in prop::collection::vec((0..400u32, 0..60u64), 1..1_500)) {
            let (plan, mut lane) = (plan(), GroupTable::default());
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
        let (plan, mut lane) = (plan(), GroupTable::default());
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

    fn limits(subjects: usize, memory: usize) -> RuleLimits {
        RuleLimits { subjects, memory, ..RuleLimits::WIDEST }
    }

    /// Makes room, and takes a flow of a subject that was answered with payload or not.
    fn take(
        lane: &mut GroupTable,
        plan: &CompiledRule,
        limits: &RuleLimits,
        n: u32,
        completed: bool,
    ) -> bool {
        lane.room(limits, &subject(n));
        let (time, mark): (_, EndpointBytes) = (at(100 + u64::from(n) / 1_000), [0; 16]);
        let (gains, inputs) = (Default::default(), crate::flow::RecordFields::all());
        let kinds = FlowClasses::FLOWS | FlowClasses::ATTEMPTS | FlowClasses::FAILED;
        let news =
            RecordDelta { time, kinds, gains, inputs, source: mark, destination: mark, port: 25, completed };
        let Some((_, watched, _)) = lane.enter(plan, time, (subject(n), completed), limits) else {
            return false;
        };
        let before = watched.heap();
        watched.book(plan, time, &news);
        let after = watched.heap();
        lane.account(before, after);
        true
    }

    #[test]
    fn the_least_interesting_subject_makes_room_and_never_a_real_one() {
        let (plan, mut lane, limits) = (plan(), GroupTable::default(), limits(5_000, usize::MAX));
        // 1,000 that completed a handshake, and 100 with many flows that nobody answered.
        (0..1_000).for_each(|n| assert!(take(&mut lane, &plan, &limits, n, true)));
        for _ in 0..10 {
            (1_000..1_100).for_each(|n| assert!(take(&mut lane, &plan, &limits, n, false)));
        }
        // A flood of single ones, and amid it one that is real.
        for n in 10_000..200_000 {
            assert!(take(&mut lane, &plan, &limits, n, false), "each is taken");
            if n % 1_000 == 0 {
                assert!(take(&mut lane, &plan, &limits, 5_555, false));
            }
        }
        assert!(lane.len() <= 5_000);
        assert!((0..1_100).chain([5_555]).all(|n| lane.get_mut(&subject(n)).is_some()), "a real one is gone");
        assert!(lane.get_mut(&subject(199_999)).is_some(), "the newest is there");
        assert!(lane.get_mut(&subject(10_000)).is_none(), "the oldest of the flood is gone");
        let places: usize = lane.shards.iter().map(|shard| shard.places.len()).sum();
        assert!(places <= 5_000 + 2 * SHARDS, "{places} places: those that were given up are taken again");
        let waiting: usize = lane.shards.iter().map(|shard| shard.half_open.len()).sum();
        assert!(waiting <= 3 * 5_000, "{waiting}");
        // Visits that are decided anew lose nobody, those that wait for a subject among them.
        lane.schedule(&plan, at(400));
        // Where all are real, one of few flows makes room; an alert that fires never does.
        (300_000..310_000).for_each(|n| assert!(take(&mut lane, &plan, &limits, n, true)));
        assert!(lane.len() <= 5_000);
        assert_eq!(lane.iter().count(), lane.len());
        lane.expire(&plan, at(400) + plan.retention * 3);
        assert_eq!((lane.len(), lane.memory()), (0, 0));
    }

    #[test]
    fn the_memory_of_a_lane_is_bounded_and_told_as_it_is() {
        let (plan, mut lane) = (plan(), GroupTable::default());
        let limits = limits(usize::MAX, 1 << 20);
        for n in 0..400_000 {
            assert!(take(&mut lane, &plan, &limits, n / 3, n % 5 == 0));
            assert!(lane.memory() <= (1 << 20) + 1_000, "{}", lane.memory());
        }
        let held: usize = lane.iter().map(|(_, watched)| PLACE + watched.heap()).sum();
        assert_eq!(lane.memory(), held);
        assert!(lane.len() > 3_000);
    }

    #[test]
    fn so_many_overflowed_that_any_may_have() {
        let (plan, mut lane) = (plan(), GroupTable::default());
        let overflowed =
            |lane: &GroupTable, n: u32, clock: u64| lane.overflowed(&subject(n), plan.retention, at(clock));
        (0..MAX_OVERFLOWED as u32).for_each(|n| lane.overflow(subject(n), at(1_000)));
        assert!(overflowed(&lane, 7, 1_000) && !overflowed(&lane, 1_000_000, 1_000));
        (100_000..400_000).for_each(|n| lane.overflow(subject(n), at(1_001)));
        assert_eq!(lane.overflowed.last.len(), MAX_OVERFLOWED, "a flood takes no more");
        assert!(overflowed(&lane, 399_999, 1_002) && overflowed(&lane, 1_000_000, 1_002), "it may be any");
        lane.overflow(subject(7), at(2_000));
        let later = 1_001 + plan.retention.as_secs();
        lane.overflowed.expire(&plan, at(later));
        assert!(
            overflowed(&lane, 7, later) && !overflowed(&lane, 8, later) && !overflowed(&lane, 399_999, later)
        );
        assert_eq!(lane.overflowed.last.len(), 1);
        lane.overflow(subject(399_999), at(later));
        assert!(overflowed(&lane, 399_999, later), "there is room again");
    }

    #[test]
    fn what_is_forgotten_gives_its_room_back() {
        let (plan, mut lane) = (plan(), GroupTable::default());
        (0..100_000).for_each(|n| see(&mut lane, &plan, n, 100));
        assert_eq!(lane.len(), 100_000);
        lane.expire(&plan, at(100) + plan.retention * 2);
        let room = lane.shards.iter().map(|shard| shard.places.capacity() + shard.index.capacity()).max();
        assert_eq!((lane.len(), room), (0, Some(0)));
    }
}
