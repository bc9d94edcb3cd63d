//! The subjects of one rule, in parts that are swept one after the other.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::BuildHasher,
};

use foldhash::quality::RandomState;

use super::{plan::Plan, subject::Subject, time::Time, watched::Watched};

/// Parts. Each sweep goes over one.
pub(super) const SHARDS: usize = 64;

/// Most subjects of a rule. Those beyond are not watched until others are forgotten, and counted.
pub(super) const MOST: usize = 1 << 20;

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
    shards: Vec<HashMap<Subject, Watched, RandomState>>,
    hasher: RandomState,
    len: usize,
    refused: u64,
    /// Subjects some of whose packets found the flow table full, and when last.
    overflowed: HashMap<Subject, Time, RandomState>,
}

impl Default for Lane {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| HashMap::default()).collect();
        Self { shards, hasher: RandomState::default(), len: 0, refused: 0, overflowed: HashMap::default() }
    }
}

impl Lane {
    /// A subject, if it is remembered or there is room for it.
    pub(super) fn enter(&mut self, plan: &Plan, subject: Subject) -> Option<&mut Watched> {
        let shard = self.shard(&subject);
        match self.shards.get_mut(shard)?.entry(subject) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(_) if self.len >= MOST => {
                self.refused += 1;
                None
            }
            Entry::Vacant(new) => {
                self.len += 1;
                Some(new.insert(Watched::new(plan)))
            }
        }
    }

    /// Puts a subject back as it was saved.
    pub(super) fn put(&mut self, subject: Subject, watched: Watched) {
        let shard = self.shard(&subject);
        if let Some(shard) = self.shards.get_mut(shard) {
            self.len += usize::from(shard.insert(subject, watched).is_none());
        }
    }

    /// A subject, if it is remembered.
    pub(super) fn get_mut(&mut self, subject: &Subject) -> Option<&mut Watched> {
        let shard = self.shard(subject);
        self.shards.get_mut(shard)?.get_mut(subject)
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
        self.shards.iter().flatten()
    }

    /// Every subject.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Subject, &mut Watched)> {
        self.shards.iter_mut().flatten()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Events of subjects for which there was no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Forgets, in one shard, what cannot matter at `clock` any more.
    pub(super) fn sweep(&mut self, plan: &Plan, shard: usize, clock: Time) {
        self.overflowed.retain(|_, last| *last + plan.retention > clock);
        let Some(shard) = self.shards.get_mut(shard) else { return };
        let before = shard.len();
        shard.retain(|_, watched| watched.prune(plan, clock));
        self.len -= before - shard.len();
        if shard.len() < shard.capacity() / 4 {
            shard.shrink_to_fit();
        }
    }

    fn shard(&self, subject: &Subject) -> usize {
        // The low bits choose the place within a shard.
        (self.hasher.hash_one(subject) >> 40) as usize % SHARDS
    }
}
