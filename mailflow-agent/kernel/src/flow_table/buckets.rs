//! Buckets of the flow table, mapped into memory: read and freed in place. See [`mailflow_common::Bucket`].

mod shape;
mod slot;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::maps::MapData;
use mailflow_common::{
    BUCKET_SLOTS, BUCKETS_PER_GROUP, Bucket, EMPTY, FlowCounters, FlowKey, FlowTableKey, HashKeys,
    KeyRemainder, SourceLimit, TOMBSTONE, bucket_groups, bucket_index, tag_of,
};

use mailflow_engine::time::Time;

pub(crate) use self::shape::Shape;
use self::slot::{FIRST, add, read, slot, sum};
use super::{conservation::Sum, mmap::Mapped};
use crate::host::system_clock;

/// Words of a bucket.
const SET_WORDS: usize = size_of::<Bucket>() / 8;

/// Longest time for which a packet may be in progress: with a flow that it looked up before its eviction, or
/// in a program that was replaced.
pub(crate) const UNDER_WAY: Duration = Duration::from_millis(20);

/// Buckets of a flow table.
pub(crate) struct Sets {
    sets: Mapped,
    /// Groups of buckets that may hold flows; `None` to read all buckets.
    groups: Option<Groups>,
    /// Cells of the [`SourceLimit`], to evict flows.
    shares: Option<(Mapped, SourceLimit)>,
    keys: HashKeys,
    /// Tombstones, until they can be freed.
    left: RefCell<VecDeque<Left>>,
    /// Number of tombstones that are duplicates.
    twins: Cell<usize>,
    /// Times, and how many tombstones are as old. The clock is not read for each eviction, as that would cost
    /// as much as to free a slot.
    waves: RefCell<VecDeque<(Time, usize)>>,
}

/// Position of a scan in the buckets.
#[derive(Default)]
pub(crate) struct BucketCursor {
    /// Number of the next bucket.
    next: u32,
    /// True if a bucket of its group before this one holds flows.
    occupied: bool,
    /// Counts of duplicates that are not in the slots of their flows.
    pub(super) apart: Sum,
}

impl BucketCursor {
    /// Begins a scan after the fallback map, with the counts of duplicates there.
    pub(crate) fn new(apart: Sum) -> Self {
        Self { apart, ..Self::default() }
    }
}

/// Groups of [`BUCKETS_PER_GROUP`] buckets that may hold flows.
struct Groups {
    /// Words of the program: 1 if a flow was inserted.
    inserted: Mapped,
    /// Groups that held flows at the last scan. All of them at first, as an earlier agent may have cleared
    /// the words.
    occupied: RefCell<Vec<bool>>,
}

impl Groups {
    fn new(inserted: Mapped) -> Self {
        let occupied = RefCell::new(vec![true; inserted.words().len()]);
        Self { inserted, occupied }
    }

    /// Returns true if the group has to be read: it held flows at the last scan, or a flow was inserted
    /// since. It counts as occupied until [`Groups::end`], so that a scan that is not completed loses no flow.
    fn begin(&self, group: usize) -> bool {
        // A flow that is inserted after this is seen now, or sets the word again.
        let inserted = self
            .inserted
            .words()
            .get(group)
            .is_none_or(|word| word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::SeqCst) != 0);
        let mut groups = self.occupied.borrow_mut();
        let Some(occupied) = groups.get_mut(group) else { return true };
        *occupied |= inserted;
        *occupied
    }

    /// Records if the group holds flows.
    fn end(&self, group: usize, occupied: bool) {
        if let Some(known) = self.occupied.borrow_mut().get_mut(group) {
            *known = occupied;
        }
    }
}

/// Tombstone: slot of an evicted flow.
struct Left {
    set: u32,
    way: u8,
    /// Counts at the eviction.
    sum: Sum,
    /// Other slot of the same flow, if two CPUs inserted it twice.
    twin: Option<u8>,
}

impl Left {
    /// Returns true if this is the duplicate of the flow in a slot.
    fn is_twin(&self, set: u32, way: usize) -> bool {
        self.set == set && self.twin.map(usize::from) == Some(way)
    }
}

/// Outcome of an eviction from a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Evicted.
    Out,
    /// Kept: the flow has another number of packets.
    Lives,
    /// Not in its bucket.
    Absent,
}

impl Sets {
    /// Maps the buckets of a table, to read them.
    pub(crate) fn open(sets: &MapData, count: u32, keys: HashKeys) -> io::Result<Self> {
        let sets = Mapped::new(sets, count, size_of::<Bucket>())?;
        Ok(Self::of(sets, keys))
    }

    /// Makes buckets in private memory, for tests.
    #[cfg(test)]
    fn ours(count: usize, keys: HashKeys) -> io::Result<Self> {
        let inserted = Mapped::own(bucket_groups(count as u32) as usize * size_of::<u64>())?;
        let groups = Some(Groups::new(inserted));
        Ok(Self { groups, ..Self::of(Mapped::own(count * size_of::<Bucket>())?, keys) })
    }

    fn of(sets: Mapped, keys: HashKeys) -> Self {
        let (left, twins, waves) = Default::default();
        Self { sets, groups: None, shares: None, keys, left, twins, waves }
    }

    /// Maps the buckets to evict flows too, with the words of insertions and the sketch of sources. Only one
    /// such value may exist at a time: it clears the words.
    pub(crate) fn own(
        sets: &MapData,
        count: u32,
        inserted: &MapData,
        shares: &MapData,
        sharing: SourceLimit,
    ) -> io::Result<Self> {
        let groups = Some(Groups::new(Mapped::new(inserted, bucket_groups(count), size_of::<u64>())?));
        let shares = Some((Mapped::new(shares, mailflow_common::SKETCH_CELLS, size_of::<u64>())?, sharing));
        let own = Self { groups, shares, ..Self::open(sets, count, sharing.keys)? };
        own.find_left();
        Ok(own)
    }

    /// Finds the tombstones that an earlier agent did not free.
    fn find_left(&self) {
        for (number, set) in self.all() {
            for way in 0..BUCKET_SLOTS {
                if set[way].load(Ordering::Relaxed) == TOMBSTONE {
                    self.leave(number, way, sum(slot(set, way)), None);
                }
            }
        }
        self.mark();
    }

    /// Adds a tombstone whose slot holds `sum` now.
    fn leave(&self, set: u32, way: usize, sum: Sum, twin: Option<usize>) {
        let (way, twin) = (way as u8, twin.map(|twin| twin as u8));
        self.left.borrow_mut().push_back(Left { set, way, sum, twin });
    }

    /// Notes the time: tombstones since the last note can be freed after [`UNDER_WAY`].
    pub(crate) fn mark(&self) {
        let mut waves = self.waves.borrow_mut();
        let known: usize = waves.iter().map(|(_, ways)| ways).sum();
        let ways = self.left.borrow().len() - known;
        if ways > 0 {
            waves.push_back((system_clock::now(), ways));
        }
    }

    /// Returns a bucket by its number.
    fn set(&self, number: u32) -> Option<&[AtomicU64]> {
        let start = number as usize * SET_WORDS;
        self.sets.words().get(start..start + SET_WORDS)
    }

    /// Returns the bucket number of a tag.
    fn number(&self, tag: u64) -> u32 {
        bucket_index(tag, (self.sets.words().len() / SET_WORDS) as u32)
    }

    /// Returns the table key, the remainder and the tag of a flow.
    fn place(&self, key: &FlowKey) -> (FlowTableKey, KeyRemainder, u64) {
        let (place, rest) = FlowTableKey::of(key);
        (place, rest, tag_of(self.keys.flow(&place, &rest)))
    }

    /// Returns all buckets with their numbers.
    fn all(&self) -> impl Iterator<Item = (u32, &[AtomicU64])> {
        (0..).zip(self.sets.words().chunks_exact(SET_WORDS))
    }

    /// Visits the flows of the next bucket, each once. Returns false at the end of the table. Flows that begin
    /// or are evicted during the scan may be missed.
    ///
    /// If two CPUs inserted a flow into two slots, because a slot was freed between their choices, the first
    /// slot stays. The counts of the second are added to it when no packet can be in progress with the second
    /// any more ([`Sets::free`]), and to `cursor.apart` now.
    pub(super) fn visit_next(
        &self,
        cursor: &mut BucketCursor,
        visit: &mut impl FnMut(&FlowKey, &FlowCounters),
    ) -> bool {
        const GROUP: u32 = BUCKETS_PER_GROUP;
        while cursor.next.is_multiple_of(GROUP)
            && let Some(groups) = &self.groups
            && self.set(cursor.next).is_some()
            && !groups.begin((cursor.next / GROUP) as usize)
        {
            cursor.next += GROUP;
        }
        let Some(set) = self.set(cursor.next) else {
            self.mark();
            return false;
        };
        cursor.occupied &= !cursor.next.is_multiple_of(GROUP);
        cursor.occupied |= self.visit(cursor.next, set, visit, &mut cursor.apart);
        cursor.next += 1;
        if let Some(groups) = &self.groups
            && (cursor.next.is_multiple_of(GROUP) || self.set(cursor.next).is_none())
        {
            groups.end(((cursor.next - 1) / GROUP) as usize, cursor.occupied);
        }
        true
    }

    /// Visits the flows of a bucket. Returns true if there are any, visited or not.
    fn visit(
        &self,
        number: u32,
        set: &[AtomicU64],
        visit: &mut impl FnMut(&FlowKey, &FlowCounters),
        apart: &mut Sum,
    ) -> bool {
        let mut occupied = false;
        for way in 0..BUCKET_SLOTS {
            let tag = set[way].load(Ordering::Relaxed);
            if tag <= TOMBSTONE {
                continue;
            }
            occupied = true;
            // A slot that is still being written has no key yet.
            if slot(set, way)[FIRST].load(Ordering::Acquire) == 0 {
                continue;
            }
            let flow = read(slot(set, way));
            let is = |other: &usize| {
                set[*other].load(Ordering::Relaxed) == tag && {
                    let other = read(slot(set, *other));
                    (other.key, other.entry.remainder) == (flow.key, flow.entry.remainder)
                }
            };
            match (0..way).find(is) {
                None => visit(&flow.key.flow(&flow.entry.remainder), &flow.entry.counters),
                Some(twin) => {
                    set[way].store(TOMBSTONE, Ordering::SeqCst);
                    self.give_back(&flow.key.flow(&flow.entry.remainder));
                    let sum = sum(slot(set, way));
                    apart.add(&sum);
                    self.twins.set(self.twins.get() + 1);
                    self.leave(number, way, sum, Some(twin));
                }
            }
        }
        occupied
    }

    /// Returns true if the flow has a slot.
    pub(crate) fn has(&self, key: &FlowKey) -> bool {
        self.find(key).is_some()
    }

    /// Adds counts that the flow had in the fallback map, after it left that map.
    pub(crate) fn join(&self, key: &FlowKey, counters: &FlowCounters) -> bool {
        let (_, _, tag) = self.place(key);
        if let Some(set) = self.set(self.number(tag)) {
            set[offset_of!(Bucket, fallback) / 8].fetch_sub(1, Ordering::Relaxed);
        }
        self.give_back(key);
        self.add(key, counters)
    }

    /// Adds to the counters of a flow. Returns false if it is not here any more.
    fn add(&self, key: &FlowKey, counters: &FlowCounters) -> bool {
        let Some((_, way, set)) = self.find(key) else { return false };
        add(slot(set, way), counters);
        true
    }

    /// Returns the bucket number, the slot and the bucket of a flow.
    fn find(&self, key: &FlowKey) -> Option<(u32, usize, &[AtomicU64])> {
        let (place, rest, tag) = self.place(key);
        let number = self.number(tag);
        let set = self.set(number)?;
        let is = |way: &usize| {
            let slot = slot(set, *way);
            set[*way].load(Ordering::Relaxed) == tag && slot[FIRST].load(Ordering::Acquire) != 0 && {
                let slot = read(slot);
                slot.key == place && slot.entry.remainder == rest
            }
        };
        (0..BUCKET_SLOTS).find(is).map(|way| (number, way, set))
    }

    /// Returns the counters of a flow.
    pub(crate) fn get(&self, key: &FlowKey) -> Option<FlowCounters> {
        self.find(key).map(|(_, way, set)| read(slot(set, way)).entry.counters)
    }

    /// Evicts a flow, if it has this number of packets.
    pub(super) fn take(&self, key: &FlowKey, packets: u64) -> Taken {
        let Some((number, way, set)) = self.find(key) else { return Taken::Absent };
        // A part of it is on its way here.
        if self.twins.get() > 0 && self.left.borrow().iter().any(|left| left.is_twin(number, way)) {
            return Taken::Lives;
        }
        let slot = slot(set, way);
        let same = |sum: &Sum| (sum.up.packets + sum.down.packets) as u32 == packets as u32;
        if !same(&sum(slot)) {
            return Taken::Lives;
        }
        let tag = set[way].swap(TOMBSTONE, Ordering::SeqCst);
        let sum = sum(slot);
        if !same(&sum) {
            // A packet came just now: the flow stays.
            set[way].store(tag, Ordering::SeqCst);
            return Taken::Lives;
        }
        self.give_back(key);
        self.leave(number, way, sum, None);
        Taken::Out
    }

    /// Subtracts a flow from the sketch of its source.
    fn give_back(&self, key: &FlowKey) {
        let Some((shares, sharing)) = &self.shares else { return };
        for cell in sharing.cells(&sharing.source(&key.client)) {
            if let Some(cell) = shares.words().get(cell as usize) {
                cell.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Frees tombstones with which no packet can be in progress any more, or all of them if nothing counts.
    /// Returns the counts that they gained since their eviction.
    pub(crate) fn free(&self, counting: bool) -> Sum {
        self.mark();
        let (now, mut late) = (system_clock::now(), Sum::default());
        let (mut waves, mut left) = (self.waves.borrow_mut(), self.left.borrow_mut());
        while let Some((_, ways)) = waves.pop_front_if(|(at, _)| !counting || *at + UNDER_WAY <= now) {
            left.drain(..ways).for_each(|left| self.free_one(&left, &mut late));
        }
        late
    }

    fn free_one(&self, left: &Left, late: &mut Sum) {
        let Some(set) = self.set(left.set) else { return };
        let (way, slot) = (usize::from(left.way), slot(set, usize::from(left.way)));
        late.subtract(&left.sum);
        let added = left.twin.is_some() && {
            self.twins.set(self.twins.get() - 1);
            let flow = read(slot);
            self.add(&flow.key.flow(&flow.entry.remainder), &flow.entry.counters)
        };
        if !added {
            late.add(&sum(slot));
        }
        slot.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        // A CPU that finds the slot empty finds zeros.
        set[way].store(EMPTY, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
