//! Groups of one rule, in shards, with a timing wheel that finds expired groups.
//!
//! A table may hold a million groups. So the groups lie in contiguous slabs with one sixteenth of spare capacity.
//! The hash table holds only 32-bit slot indices, so its empty entries cost little.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    group_key::GroupKey,
    group_shard::{GROUP_OVERHEAD_BYTES, GroupShard, GroupSlot, HalfOpenGroup, NO_SLOT},
    group_state::GroupState,
    timing_wheel::{SHARD_COUNT, TimingWheel},
};
use crate::{
    rule::{RuleLimits, compiled::CompiledRule, limits::MAX_GROUPS},
    time::Time,
};

/// Most shards that are searched for a half-open group with a single flow.
const MAX_COMPARED_SHARDS: usize = 8;

/// Groups that are sampled for removal if no group is half-open.
const SAMPLED_GROUPS: usize = 64;

/// Groups that are prefetched together before their visits.
const PREFETCH_GROUPS: usize = 32;

/// Table of a rule's groups.
#[derive(Debug)]
pub(crate) struct GroupTable {
    shards: Vec<GroupShard>,
    hasher: RandomState,
    len: usize,
    /// Bytes of all groups.
    memory: usize,
    wheel: TimingWheel,
    overflowed: OverflowedGroups,
}

/// Most groups whose overflow is recorded by group key.
const MAX_OVERFLOWED_GROUPS: usize = 65_536;

/// Groups that had packets in the flow table's overflow, with the time of the last packet.
#[derive(Debug, Default)]
struct OverflowedGroups {
    last: HashMap<GroupKey, Time, RandomState>,
    /// Time of the last overflow of a group without an entry. Any group may have been affected.
    any_last: Option<Time>,
    /// Time of the next removal of expired entries.
    next: Time,
}

/// Overflowed groups, as saved in a checkpoint.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedOverflowedGroups {
    last: Vec<(GroupKey, Time)>,
    any_last: Option<Time>,
}

impl Default for GroupTable {
    fn default() -> Self {
        let shards = (0..SHARD_COUNT).map(|_| GroupShard::default()).collect();
        let (hasher, wheel, overflowed) =
            (RandomState::default(), TimingWheel::default(), OverflowedGroups::default());
        Self { shards, hasher, len: 0, memory: 0, wheel, overflowed }
    }
}

impl GroupTable {
    /// Returns the group of a key, and true if it is new. Inserts an absent group, and returns `None` if the table
    /// is full. Call [`GroupTable::make_room`] before. `has_server_payload` is that of the record that follows.
    pub(crate) fn get_or_insert(
        &mut self,
        compiled: &CompiledRule,
        clock: Time,
        (group_key, has_server_payload): (GroupKey, bool),
        limits: &RuleLimits,
    ) -> Option<(&GroupKey, &mut GroupState, bool)> {
        let full = self.is_full(limits);
        let Self { shards, hasher, len, memory, wheel, .. } = self;
        let hash = hasher.hash_one(&group_key);
        let number = shard_of(hash);
        let shard = shards.get_mut(number)?;
        let existing = shard.find(hash, &group_key);
        let slot = match existing {
            Some(slot) => slot,
            None if full => return None,
            None => {
                if *len == 0 {
                    // An empty table needs no visits, so its wheel was not advanced.
                    *wheel = TimingWheel::new(compiled.retention, clock);
                }
                *len += 1;
                *memory += GROUP_OVERHEAD_BYTES;
                let wheel_slot = wheel.next_slot(number, clock + compiled.min_retention);
                shard.push(
                    hasher,
                    hash,
                    (group_key, GroupState::new_small(compiled)),
                    wheel_slot,
                    has_server_payload,
                )
            }
        };
        let (group_key, group) = shard.get_mut(slot)?;
        Some((group_key, group, existing.is_none()))
    }

    /// Removes groups if a limit is reached, and returns their number. Candidates are half-open groups with few
    /// flows, oldest first, from the shard of `group_key` on.
    pub(crate) fn make_room(&mut self, limits: &RuleLimits, group_key: &GroupKey) -> u64 {
        /// Most groups removed at once. Several, as one record can grow the memory by more than one group frees.
        const MAX_EVICTED_AT_ONCE: u64 = 8;
        if !self.is_full(limits) {
            return 0;
        }
        let hash = self.hasher.hash_one(group_key);
        let (mut removed, first_shard) = (0, shard_of(hash));
        let existing =
            self.shards.get(first_shard).is_some_and(|shard| shard.find(hash, group_key).is_some());
        while removed < MAX_EVICTED_AT_ONCE
            && (self.memory >= limits.memory || (!existing && self.len >= limits.groups.min(MAX_GROUPS)))
        {
            let Some((number, slot)) = self.least_active(first_shard) else { break };
            let Self { shards, hasher, len, memory, .. } = self;
            let Some(shard) = shards.get_mut(number) else { break };
            let Some(heap) = shard.remove(hasher, slot) else { break };
            *len -= 1;
            *memory = memory.saturating_sub(GROUP_OVERHEAD_BYTES + heap);
            removed += 1;
        }
        removed
    }

    /// Replaces the size of a group, in bytes.
    pub(crate) fn account(&mut self, before: usize, after: usize) {
        self.memory = (self.memory + after).saturating_sub(before);
    }

    /// Returns the bytes of all groups.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    fn is_full(&self, limits: &RuleLimits) -> bool {
        self.len >= limits.groups.min(MAX_GROUPS) || self.memory >= limits.memory
    }

    /// Returns shard and slot of a group that may be removed.
    fn least_active(&mut self, first: usize) -> Option<(usize, u32)> {
        let mut half_open: Option<(usize, HalfOpenGroup)> = None;
        let mut shards = 0;
        for number in (0..SHARD_COUNT).map(|step| (first + step) % SHARD_COUNT) {
            let Some(candidate) = self.shards.get_mut(number)?.least_active() else { continue };
            shards += 1;
            let other = match &half_open {
                Some((_, existing)) if existing.flows <= candidate.flows => Some((number, candidate)),
                _ => half_open.replace((number, candidate)),
            };
            // The candidate that is not chosen keeps its place in the queue.
            if let Some((number, HalfOpenGroup { at, generation, .. })) = other {
                self.shards.get_mut(number)?.half_open.push_front((at, generation));
            }
            if shards >= MAX_COMPARED_SHARDS
                || half_open.as_ref().is_some_and(|(_, candidate)| candidate.flows <= 1)
            {
                break;
            }
        }
        if let Some((number, candidate)) = half_open {
            return Some((number, candidate.at));
        }
        // No group is half-open. A group with a firing alert is never removed: its alert would not resolve.
        let mut best = None;
        for step in 0..SAMPLED_GROUPS {
            let number = (first + step) % SHARD_COUNT;
            let Some(shard) = self.shards.get_mut(number).filter(|shard| shard.len > 0) else { continue };
            let Some((slot, group)) = shard.next_used() else { continue };
            let removal_priority = group.removal_priority();
            if group.single_alert().is_none()
                && best.as_ref().is_none_or(|(other, _)| removal_priority < *other)
            {
                best = Some((removal_priority, (number, slot)));
            }
        }
        best.map(|(_, candidate)| candidate)
    }

    /// Inserts a group of a checkpoint. Call [`GroupTable::schedule`] after the last one.
    pub(crate) fn insert(&mut self, group_key: GroupKey, group: GroupState) {
        let hash = self.hasher.hash_one(&group_key);
        let Some(shard) = self.shards.get_mut(shard_of(hash)) else { return };
        match shard.find(hash, &group_key).and_then(|slot| shard.get_mut(slot)) {
            Some((_, existing)) => *existing = group,
            None => {
                self.len += 1;
                self.memory += GROUP_OVERHEAD_BYTES + group.heap();
                let has_server_payload = group.has_server_payload();
                shard.push(&self.hasher, hash, (group_key, group), 0, has_server_payload);
            }
        }
    }

    /// Recomputes the visit of each group. Call after inserting saved groups, or after a change of the rule.
    pub(crate) fn schedule(&mut self, compiled: &CompiledRule, clock: Time) {
        self.wheel = TimingWheel::new(compiled.retention, clock);
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let GroupShard { slab, wheel_lists, free_list, vacant_slots, .. } = shard;
            wheel_lists.fill(NO_SLOT);
            // Slots without a group leave their wheel lists.
            for at in vacant_slots.drain(..) {
                if let Some(slot) = slab.get_mut(at as usize) {
                    slot.next = std::mem::replace(free_list, at);
                }
            }
            for (at, slot) in (0..).zip(slab.iter_mut()) {
                let Some((_, group)) = &slot.entry else { continue };
                let wheel_slot = self.wheel.next_slot(number, group.next_visit(compiled, clock));
                if let Some(first) = wheel_lists.get_mut(wheel_slot) {
                    slot.next = std::mem::replace(first, at);
                }
            }
        }
    }

    /// Returns the group of a key.
    pub(crate) fn get_mut(&mut self, group_key: &GroupKey) -> Option<&mut GroupState> {
        let hash = self.hasher.hash_one(group_key);
        let shard = self.shards.get_mut(shard_of(hash))?;
        let slot = shard.find(hash, group_key)?;
        shard.get_mut(slot).map(|(_, group)| group)
    }

    /// Returns the group of a key.
    pub(crate) fn get(&self, group_key: &GroupKey) -> Option<&GroupState> {
        let hash = self.hasher.hash_one(group_key);
        let shard = self.shards.get(shard_of(hash))?;
        let slot = shard.find(hash, group_key)?;
        shard.slab.get(slot as usize)?.get().map(|(_, group)| group)
    }

    /// Records that packets of `group_key` were counted as overflow.
    pub(crate) fn record_overflow(&mut self, group_key: GroupKey, time: Time) {
        let OverflowedGroups { last, any_last, .. } = &mut self.overflowed;
        let full = last.len() >= MAX_OVERFLOWED_GROUPS;
        match last.entry(group_key) {
            Entry::Vacant(_) if full => *any_last = Some(time).max(*any_last),
            entry => {
                let last = entry.or_default();
                *last = time.max(*last);
            }
        }
    }

    /// Returns true if packets of the group were counted as overflow within `retention`.
    pub(crate) fn has_overflow(&self, group_key: &GroupKey, retention: Duration, clock: Time) -> bool {
        let OverflowedGroups { last, any_last, .. } = &self.overflowed;
        let within = |last: &Time| *last + retention > clock;
        !last.is_empty() && last.get(group_key).is_some_and(within) || any_last.as_ref().is_some_and(within)
    }

    /// Returns the overflowed groups to save in a checkpoint.
    pub(crate) fn save_overflow(&self) -> SavedOverflowedGroups {
        let OverflowedGroups { last, any_last, .. } = &self.overflowed;
        SavedOverflowedGroups {
            last: last.iter().map(|(group_key, time)| (group_key.clone(), *time)).collect(),
            any_last: *any_last,
        }
    }

    /// Restores the overflowed groups of a checkpoint.
    pub(crate) fn restore_overflow(&mut self, state: SavedOverflowedGroups) {
        self.overflowed.any_last = state.any_last;
        for (group_key, time) in state.last {
            self.record_overflow(group_key, time);
        }
    }

    /// Returns all groups.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&GroupKey, &GroupState)> {
        self.shards.iter().flat_map(|shard| &shard.slab).filter_map(GroupSlot::get)
    }

    /// Returns all groups.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&GroupKey, &mut GroupState)> {
        let slots = self.shards.iter_mut().flat_map(|shard| &mut shard.slab);
        slots.filter_map(GroupSlot::get_mut)
    }

    /// Returns the groups of at most `max` slots of a shard, and true if the shard has further slots.
    pub(crate) fn slots_from(
        &self,
        shard: usize,
        from: usize,
        max: usize,
    ) -> (impl Iterator<Item = (&GroupKey, &GroupState)>, bool) {
        let slots = self.shards.get(shard).and_then(|shard| shard.slab.get(from..)).unwrap_or_default();
        (slots.iter().take(max).filter_map(GroupSlot::get), slots.len() > max)
    }

    /// Returns the number of groups.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Visits the groups that are due at `clock`, and removes expired state. Returns the number of visits.
    pub(crate) fn expire(&mut self, compiled: &CompiledRule, clock: Time) -> usize {
        let Self { shards, hasher, len, memory, wheel, overflowed, .. } = self;
        overflowed.expire(compiled, clock);
        let (mut visits, mut due) = (0, Vec::new());
        if *len == 0 {
            return visits;
        }
        for (number, wheel_slot) in wheel.advance(clock) {
            let Some(shard) = shards.get_mut(number) else { continue };
            let mut next = shard
                .wheel_lists
                .get_mut(wheel_slot)
                .map_or(NO_SLOT, |first| std::mem::replace(first, NO_SLOT));
            let before = shard.len;
            due.clear();
            while let Some(slot) = shard.slab.get(next as usize) {
                due.push(next);
                next = slot.next;
            }
            for (turn, at) in due.iter().copied().enumerate() {
                if turn % PREFETCH_GROUPS == 0 {
                    let ahead = due.iter().skip(turn).take(PREFETCH_GROUPS);
                    shard.prefetch(ahead.copied());
                }
                let Some(slot) = shard.slab.get_mut(at as usize) else { continue };
                let Some((group_key, group)) = &mut slot.entry else {
                    // The slot stays linked, for the next group that takes it.
                    let wheel_slot = wheel.next_slot(number, clock + compiled.retention);
                    if let Some(first) = shard.wheel_lists.get_mut(wheel_slot) {
                        slot.next = std::mem::replace(first, at);
                    }
                    continue;
                };
                visits += 1;
                let before = group.heap();
                if group.prune(compiled, clock) {
                    *memory = memory.saturating_sub(before - group.heap().min(before));
                    let wheel_slot = wheel.next_slot(number, group.next_visit(compiled, clock));
                    if let Some(first) = shard.wheel_lists.get_mut(wheel_slot) {
                        slot.next = std::mem::replace(first, at);
                    }
                    continue;
                }
                let hash = hasher.hash_one(&*group_key);
                if let Ok(entry) = shard.index.find_entry(hash, |existing| *existing == at) {
                    entry.remove();
                }
                (slot.entry, slot.next) = (None, std::mem::replace(&mut shard.free_list, at));
                shard.len -= 1;
                *memory = memory.saturating_sub(GROUP_OVERHEAD_BYTES + before);
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
    /// Removes expired entries, [`SHARD_COUNT`] times in `compiled.retention`.
    fn expire(&mut self, compiled: &CompiledRule, clock: Time) {
        if self.last.is_empty() || clock < self.next {
            return;
        }
        self.next = clock + compiled.retention / SHARD_COUNT as u32;
        self.last.retain(|_, last| *last + compiled.retention > clock);
    }
}

/// Returns the shard of a hash. Bits 40 to 45 choose it, as the index of the shard uses the lowest and the highest
/// ones.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARD_COUNT
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

    fn group_key(n: u32) -> GroupKey {
        GroupKey::Source(Source::of(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 64))
    }

    fn compiled() -> CompiledRule {
        CompiledRule::new(fixture::rule(), Duration::from_secs(300))
    }

    /// Adds one flow of a group.
    fn see(table: &mut GroupTable, compiled: &CompiledRule, n: u32, seconds: u64) {
        let (time, endpoint_bytes): (_, EndpointBytes) = (at(seconds), [0; 16]);
        let (quantities, fields) = (Default::default(), crate::flow::RecordFields::all());
        let delta = RecordDelta {
            time,
            classes: FlowClasses::FLOWS,
            quantities,
            fields,
            source: endpoint_bytes,
            destination: endpoint_bytes,
            port: 25,
            has_server_payload: false,
        };
        let (candidate, group, _) =
            table.get_or_insert(compiled, time, (group_key(n), false), &RuleLimits::WIDEST).unwrap();
        assert_eq!(*candidate, group_key(n));
        group.apply(compiled, time, &delta);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// The table holds the groups that a plain map holds. Groups that are visited late are held longer.
        #[test]
        fn the_table_equals_a_plain_map(steps in prop::collection::vec((0..400u32, 0..60u64), 1..1_500)) {
            let (compiled, mut table) = (compiled(), GroupTable::default());
            let mut model: HashMap<u32, u64> = HashMap::new();
            let mut now = 10_000;
            let (retention, width) = (compiled.retention.as_secs(), compiled.retention.as_secs() / 64 + 2);
            for (n, pause) in steps {
                now += pause;
                see(&mut table, &compiled, n, now);
                model.insert(n, now);
                table.expire(&compiled, at(now));
                let held = |more: u64| {
                    model.iter().filter(move |(_, last)| **last + retention + more > now).map(|(n, _)| *n)
                };
                prop_assert!(held(0).all(|n| table.get_mut(&group_key(n)).is_some()), "forgotten too early");
                prop_assert!(table.len() <= held(width).count(), "held for too long");
            }
            prop_assert_eq!(table.iter().count(), table.len());
            let parts = (0..SHARD_COUNT).flat_map(|shard| [(shard, 0, 3), (shard, 3, usize::MAX)]);
            prop_assert_eq!(parts.map(|(shard, from, max)| table.slots_from(shard, from, max).0.count()).sum::<usize>(), table.len());
            // Visits that are recomputed find the same groups.
            table.schedule(&compiled, at(now));
            table.expire(&compiled, at(now + retention + width));
            prop_assert_eq!((table.len(), table.iter().count()), (0, 0));
        }
    }

    #[test]
    fn groups_are_visited_once_in_their_retention() {
        let (compiled, mut table) = (compiled(), GroupTable::default());
        let mut visits = 0;
        // 100 groups with a record a minute for a day, and 100 with one record in all.
        for minute in 0..1_440 {
            let busy = 0..100;
            busy.chain((0..100).map(|n| n + 1_000 + minute * 100).filter(|n| *n < 1_100))
                .for_each(|n| see(&mut table, &compiled, n, 1_000 + u64::from(minute) * 60));
            for second in 0..60 {
                visits += table.expire(&compiled, at(1_000 + u64::from(minute) * 60 + second));
            }
        }
        let day = 86_400 / compiled.retention.as_secs() as usize;
        assert!((100 + 100 * day / 2..=200 + 100 * (day + 1)).contains(&visits), "{visits} visits");
    }

    fn limits(groups: usize, memory: usize) -> RuleLimits {
        RuleLimits { groups, memory, ..RuleLimits::WIDEST }
    }

    /// Makes room, and adds a flow of a group, with or without payload from the server.
    fn take(
        table: &mut GroupTable,
        compiled: &CompiledRule,
        limits: &RuleLimits,
        n: u32,
        has_server_payload: bool,
    ) -> bool {
        table.make_room(limits, &group_key(n));
        let (time, endpoint_bytes): (_, EndpointBytes) = (at(100 + u64::from(n) / 1_000), [0; 16]);
        let (quantities, fields) = (Default::default(), crate::flow::RecordFields::all());
        let classes = FlowClasses::FLOWS | FlowClasses::ATTEMPTS | FlowClasses::FAILED;
        let delta = RecordDelta {
            time,
            classes,
            quantities,
            fields,
            source: endpoint_bytes,
            destination: endpoint_bytes,
            port: 25,
            has_server_payload,
        };
        let Some((_, group, _)) =
            table.get_or_insert(compiled, time, (group_key(n), has_server_payload), limits)
        else {
            return false;
        };
        let before = group.heap();
        group.apply(compiled, time, &delta);
        let after = group.heap();
        table.account(before, after);
        true
    }

    #[test]
    fn half_open_groups_are_removed_first() {
        let (compiled, mut table, limits) = (compiled(), GroupTable::default(), limits(5_000, usize::MAX));
        // 1,000 groups that completed a handshake, and 100 half-open groups with many flows.
        (0..1_000).for_each(|n| assert!(take(&mut table, &compiled, &limits, n, true)));
        for _ in 0..10 {
            (1_000..1_100).for_each(|n| assert!(take(&mut table, &compiled, &limits, n, false)));
        }
        // A flood of groups with one flow each, and a real group among them.
        for n in 10_000..200_000 {
            assert!(take(&mut table, &compiled, &limits, n, false), "each is taken");
            if n % 1_000 == 0 {
                assert!(take(&mut table, &compiled, &limits, 5_555, false));
            }
        }
        assert!(table.len() <= 5_000);
        assert!(
            (0..1_100).chain([5_555]).all(|n| table.get_mut(&group_key(n)).is_some()),
            "a real one is gone"
        );
        assert!(table.get_mut(&group_key(199_999)).is_some(), "the newest is there");
        assert!(table.get_mut(&group_key(10_000)).is_none(), "the oldest of the flood is gone");
        let slab: usize = table.shards.iter().map(|shard| shard.slab.len()).sum();
        assert!(slab <= 5_000 + 2 * SHARD_COUNT, "{slab} places: those that were given up are taken again");
        let waiting: usize = table.shards.iter().map(|shard| shard.half_open.len()).sum();
        assert!(waiting <= 3 * 5_000, "{waiting}");
        // Recomputed visits lose no group, and no slot that waits for one.
        table.schedule(&compiled, at(400));
        // If no group is half-open, one with few flows is removed, but never one with a firing alert.
        (300_000..310_000).for_each(|n| assert!(take(&mut table, &compiled, &limits, n, true)));
        assert!(table.len() <= 5_000);
        assert_eq!(table.iter().count(), table.len());
        table.expire(&compiled, at(400) + compiled.retention * 3);
        assert_eq!((table.len(), table.memory()), (0, 0));
    }

    #[test]
    fn the_memory_of_a_table_is_bounded_and_exact() {
        let (compiled, mut table) = (compiled(), GroupTable::default());
        let limits = limits(usize::MAX, 1 << 20);
        for n in 0..400_000 {
            assert!(take(&mut table, &compiled, &limits, n / 3, n % 5 == 0));
            assert!(table.memory() <= (1 << 20) + 1_000, "{}", table.memory());
        }
        let held: usize = table.iter().map(|(_, group)| GROUP_OVERHEAD_BYTES + group.heap()).sum();
        assert_eq!(table.memory(), held);
        assert!(table.len() > 3_000);
    }

    #[test]
    fn beyond_the_limit_any_group_may_have_overflowed() {
        let (compiled, mut table) = (compiled(), GroupTable::default());
        let overflowed = |table: &GroupTable, n: u32, clock: u64| {
            table.has_overflow(&group_key(n), compiled.retention, at(clock))
        };
        (0..MAX_OVERFLOWED_GROUPS as u32).for_each(|n| table.record_overflow(group_key(n), at(1_000)));
        assert!(overflowed(&table, 7, 1_000) && !overflowed(&table, 1_000_000, 1_000));
        (100_000..400_000).for_each(|n| table.record_overflow(group_key(n), at(1_001)));
        assert_eq!(table.overflowed.last.len(), MAX_OVERFLOWED_GROUPS, "a flood takes no more");
        assert!(overflowed(&table, 399_999, 1_002) && overflowed(&table, 1_000_000, 1_002), "it may be any");
        table.record_overflow(group_key(7), at(2_000));
        let later = 1_001 + compiled.retention.as_secs();
        table.overflowed.expire(&compiled, at(later));
        assert!(
            overflowed(&table, 7, later)
                && !overflowed(&table, 8, later)
                && !overflowed(&table, 399_999, later)
        );
        assert_eq!(table.overflowed.last.len(), 1);
        table.record_overflow(group_key(399_999), at(later));
        assert!(overflowed(&table, 399_999, later), "there is room again");
    }

    #[test]
    fn an_empty_table_releases_its_memory() {
        let (compiled, mut table) = (compiled(), GroupTable::default());
        (0..100_000).for_each(|n| see(&mut table, &compiled, n, 100));
        assert_eq!(table.len(), 100_000);
        table.expire(&compiled, at(100) + compiled.retention * 2);
        let room = table.shards.iter().map(|shard| shard.slab.capacity() + shard.index.capacity()).max();
        assert_eq!((table.len(), room), (0, Some(0)));
    }
}
