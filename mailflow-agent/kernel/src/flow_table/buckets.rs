//! Buckets of the flow table, mapped into memory: read and freed in place. See [`mailflow_common::Bucket`].

mod sizing;
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

pub(crate) use self::sizing::TableSizing;
use self::slot::{FIRST_WORD, add, read, slot, slot_counts};
use super::{conservation::TrafficSum, mmap::MmapArray};
use crate::host::clock;

/// Words of a bucket.
const BUCKET_WORDS: usize = size_of::<Bucket>() / 8;

/// Longest time for which a packet may be in progress: with a flow that it looked up before its eviction, or
/// in a program that was replaced.
pub(crate) const MAX_PACKET_TIME: Duration = Duration::from_millis(20);

/// Buckets of a flow table.
pub(crate) struct BucketTable {
    buckets: MmapArray,
    /// Groups of buckets that may hold flows; `None` to read all buckets.
    groups: Option<BucketGroups>,
    /// Cells of the [`SourceLimit`], to evict flows.
    sketch: Option<(MmapArray, SourceLimit)>,
    keys: HashKeys,
    /// Tombstones, until they can be freed.
    tombstones: RefCell<VecDeque<Tombstone>>,
    /// Number of tombstones that are duplicates.
    duplicate_count: Cell<usize>,
    /// Times, and how many tombstones are as old. The clock is not read for each eviction, as that would cost
    /// as much as to free a slot.
    ages: RefCell<VecDeque<(Time, usize)>>,
}

/// Position of a scan in the buckets.
#[derive(Default)]
pub(crate) struct BucketCursor {
    /// Number of the next bucket.
    next: u32,
    /// True if a bucket of its group before this one holds flows.
    occupied: bool,
    /// Counts of duplicates that are not in the slots of their flows.
    pub(super) unmerged: TrafficSum,
}

impl BucketCursor {
    /// Begins a scan after the fallback map, with the counts of duplicates there.
    pub(crate) fn new(unmerged: TrafficSum) -> Self {
        Self { unmerged, ..Self::default() }
    }
}

/// Groups of [`BUCKETS_PER_GROUP`] buckets that may hold flows.
struct BucketGroups {
    /// Words of the program: 1 if a flow was inserted.
    inserted: MmapArray,
    /// Groups that held flows at the last scan. All of them at first, as an earlier agent may have cleared
    /// the words.
    occupied: RefCell<Vec<bool>>,
}

impl BucketGroups {
    fn new(inserted: MmapArray) -> Self {
        let occupied = RefCell::new(vec![true; inserted.words().len()]);
        Self { inserted, occupied }
    }

    /// Returns true if the group has to be read: it held flows at the last scan, or a flow was inserted
    /// since. It counts as occupied until [`BucketGroups::end`], so that a scan that is not completed loses no flow.
    fn begin(&self, group: usize) -> bool {
        // A flow that is inserted after this is visited in this scan, or sets the word again.
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
        if let Some(known_occupied) = self.occupied.borrow_mut().get_mut(group) {
            *known_occupied = occupied;
        }
    }
}

/// Tombstone: slot of an evicted flow.
struct Tombstone {
    bucket: u32,
    slot_index: u8,
    /// Counts at the eviction.
    counts: TrafficSum,
    /// Other slot of the same flow, if two CPUs inserted it twice.
    original: Option<u8>,
}

impl Tombstone {
    /// Returns true if this is the duplicate of the flow in a slot.
    fn is_duplicate_of(&self, bucket: u32, slot_index: usize) -> bool {
        self.bucket == bucket && self.original.map(usize::from) == Some(slot_index)
    }
}

/// Outcome of an eviction from a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotEviction {
    /// Evicted.
    Evicted,
    /// Kept: the flow has another number of packets.
    Changed,
    /// Not in its bucket.
    Missing,
}

impl BucketTable {
    /// Maps the buckets of a table, to read them.
    pub(crate) fn open(buckets: &MapData, count: u32, keys: HashKeys) -> io::Result<Self> {
        let buckets = MmapArray::new(buckets, count, size_of::<Bucket>())?;
        Ok(Self::new(buckets, keys))
    }

    /// Makes buckets in private memory, for tests.
    #[cfg(test)]
    fn in_memory(count: usize, keys: HashKeys) -> io::Result<Self> {
        let inserted = MmapArray::private(bucket_groups(count as u32) as usize * size_of::<u64>())?;
        let groups = Some(BucketGroups::new(inserted));
        Ok(Self { groups, ..Self::new(MmapArray::private(count * size_of::<Bucket>())?, keys) })
    }

    fn new(buckets: MmapArray, keys: HashKeys) -> Self {
        let (tombstones, duplicate_count, ages) = Default::default();
        Self { buckets, groups: None, sketch: None, keys, tombstones, duplicate_count, ages }
    }

    /// Maps the buckets to evict flows too, with the words of insertions and the sketch of sources. Only one
    /// such value may exist at a time: it clears the words.
    pub(crate) fn open_for_eviction(
        buckets: &MapData,
        count: u32,
        inserted: &MapData,
        sketch: &MapData,
        source_limit: SourceLimit,
    ) -> io::Result<Self> {
        let groups =
            Some(BucketGroups::new(MmapArray::new(inserted, bucket_groups(count), size_of::<u64>())?));
        let sketch =
            Some((MmapArray::new(sketch, mailflow_common::SKETCH_CELLS, size_of::<u64>())?, source_limit));
        let table = Self { groups, sketch, ..Self::open(buckets, count, source_limit.keys)? };
        table.find_tombstones();
        Ok(table)
    }

    /// Finds the tombstones that an earlier agent did not free.
    fn find_tombstones(&self) {
        for (bucket_number, bucket) in self.all() {
            for slot_index in 0..BUCKET_SLOTS {
                if bucket[slot_index].load(Ordering::Relaxed) == TOMBSTONE {
                    self.add_tombstone(
                        bucket_number,
                        slot_index,
                        slot_counts(slot(bucket, slot_index)),
                        None,
                    );
                }
            }
        }
        self.stamp_tombstones();
    }

    /// Adds a tombstone whose slot holds `counts` now.
    fn add_tombstone(&self, bucket: u32, slot_index: usize, counts: TrafficSum, original: Option<usize>) {
        let (slot_index, original) = (slot_index as u8, original.map(|original| original as u8));
        self.tombstones.borrow_mut().push_back(Tombstone { bucket, slot_index, counts, original });
    }

    /// Notes the time: tombstones since the last note can be freed after [`MAX_PACKET_TIME`].
    pub(crate) fn stamp_tombstones(&self) {
        let mut ages = self.ages.borrow_mut();
        let stamped: usize = ages.iter().map(|(_, count)| count).sum();
        let count = self.tombstones.borrow().len() - stamped;
        if count > 0 {
            ages.push_back((clock::now(), count));
        }
    }

    /// Returns a bucket by its number.
    fn bucket(&self, bucket_number: u32) -> Option<&[AtomicU64]> {
        let start = bucket_number as usize * BUCKET_WORDS;
        self.buckets.words().get(start..start + BUCKET_WORDS)
    }

    /// Returns the bucket number of a tag.
    fn bucket_number(&self, tag: u64) -> u32 {
        bucket_index(tag, (self.buckets.words().len() / BUCKET_WORDS) as u32)
    }

    /// Returns the table key, the remainder and the tag of a flow.
    fn locate(&self, key: &FlowKey) -> (FlowTableKey, KeyRemainder, u64) {
        let (table_key, remainder) = FlowTableKey::of(key);
        (table_key, remainder, tag_of(self.keys.flow(&table_key, &remainder)))
    }

    /// Returns all buckets with their numbers.
    fn all(&self) -> impl Iterator<Item = (u32, &[AtomicU64])> {
        (0..).zip(self.buckets.words().chunks_exact(BUCKET_WORDS))
    }

    /// Visits the flows of the next bucket, each once. Returns false at the end of the table. Flows that begin
    /// or are evicted during the scan may be missed.
    ///
    /// If two CPUs inserted a flow into two slots, because a slot was freed between their choices, the first
    /// slot stays. The counts of the second are added to it when no packet can be in progress with the second
    /// any more ([`BucketTable::free_tombstones`]), and to `cursor.unmerged` now.
    pub(super) fn visit_next(
        &self,
        cursor: &mut BucketCursor,
        visit: &mut impl FnMut(&FlowKey, &FlowCounters),
    ) -> bool {
        const GROUP: u32 = BUCKETS_PER_GROUP;
        while cursor.next.is_multiple_of(GROUP)
            && let Some(groups) = &self.groups
            && self.bucket(cursor.next).is_some()
            && !groups.begin((cursor.next / GROUP) as usize)
        {
            cursor.next += GROUP;
        }
        let Some(bucket) = self.bucket(cursor.next) else {
            self.stamp_tombstones();
            return false;
        };
        cursor.occupied &= !cursor.next.is_multiple_of(GROUP);
        cursor.occupied |= self.visit(cursor.next, bucket, visit, &mut cursor.unmerged);
        cursor.next += 1;
        if let Some(groups) = &self.groups
            && (cursor.next.is_multiple_of(GROUP) || self.bucket(cursor.next).is_none())
        {
            groups.end(((cursor.next - 1) / GROUP) as usize, cursor.occupied);
        }
        true
    }

    /// Visits the flows of a bucket. Returns true if there are any, visited or not.
    fn visit(
        &self,
        bucket_number: u32,
        bucket: &[AtomicU64],
        visit: &mut impl FnMut(&FlowKey, &FlowCounters),
        unmerged: &mut TrafficSum,
    ) -> bool {
        let mut occupied = false;
        for slot_index in 0..BUCKET_SLOTS {
            let tag = bucket[slot_index].load(Ordering::Relaxed);
            if tag <= TOMBSTONE {
                continue;
            }
            occupied = true;
            // A slot that is still being written has no key yet.
            if slot(bucket, slot_index)[FIRST_WORD].load(Ordering::Acquire) == 0 {
                continue;
            }
            let flow = read(slot(bucket, slot_index));
            let is_same_flow = |other: &usize| {
                bucket[*other].load(Ordering::Relaxed) == tag && {
                    let other = read(slot(bucket, *other));
                    (other.key, other.entry.remainder) == (flow.key, flow.entry.remainder)
                }
            };
            match (0..slot_index).find(is_same_flow) {
                None => visit(&flow.key.flow(&flow.entry.remainder), &flow.entry.counters),
                Some(original) => {
                    bucket[slot_index].store(TOMBSTONE, Ordering::SeqCst);
                    self.uncount_source(&flow.key.flow(&flow.entry.remainder));
                    let counts = slot_counts(slot(bucket, slot_index));
                    unmerged.add(&counts);
                    self.duplicate_count.set(self.duplicate_count.get() + 1);
                    self.add_tombstone(bucket_number, slot_index, counts, Some(original));
                }
            }
        }
        occupied
    }

    /// Returns true if the flow has a slot.
    pub(crate) fn contains(&self, key: &FlowKey) -> bool {
        self.find(key).is_some()
    }

    /// Adds counts that the flow had in the fallback map, after it left that map.
    pub(crate) fn merge_fallback(&self, key: &FlowKey, counters: &FlowCounters) -> bool {
        let (_, _, tag) = self.locate(key);
        if let Some(bucket) = self.bucket(self.bucket_number(tag)) {
            bucket[offset_of!(Bucket, fallback) / 8].fetch_sub(1, Ordering::Relaxed);
        }
        self.uncount_source(key);
        self.add(key, counters)
    }

    /// Adds to the counters of a flow. Returns false if the flow has no slot any more.
    fn add(&self, key: &FlowKey, counters: &FlowCounters) -> bool {
        let Some((_, slot_index, bucket)) = self.find(key) else { return false };
        add(slot(bucket, slot_index), counters);
        true
    }

    /// Returns the bucket number, the slot and the bucket of a flow.
    fn find(&self, key: &FlowKey) -> Option<(u32, usize, &[AtomicU64])> {
        let (table_key, remainder, tag) = self.locate(key);
        let bucket_number = self.bucket_number(tag);
        let bucket = self.bucket(bucket_number)?;
        let is_same_flow = |slot_index: &usize| {
            let slot = slot(bucket, *slot_index);
            bucket[*slot_index].load(Ordering::Relaxed) == tag
                && slot[FIRST_WORD].load(Ordering::Acquire) != 0
                && {
                    let slot = read(slot);
                    slot.key == table_key && slot.entry.remainder == remainder
                }
        };
        (0..BUCKET_SLOTS).find(is_same_flow).map(|slot_index| (bucket_number, slot_index, bucket))
    }

    /// Returns the counters of a flow.
    pub(crate) fn counters(&self, key: &FlowKey) -> Option<FlowCounters> {
        self.find(key).map(|(_, slot_index, bucket)| read(slot(bucket, slot_index)).entry.counters)
    }

    /// Evicts a flow, if it has this number of packets.
    pub(super) fn evict(&self, key: &FlowKey, packets: u64) -> SlotEviction {
        let Some((bucket_number, slot_index, bucket)) = self.find(key) else { return SlotEviction::Missing };
        // Counts of a duplicate of the flow are still to be added.
        if self.duplicate_count.get() > 0
            && self
                .tombstones
                .borrow()
                .iter()
                .any(|tombstone| tombstone.is_duplicate_of(bucket_number, slot_index))
        {
            return SlotEviction::Changed;
        }
        let slot = slot(bucket, slot_index);
        let is_unchanged =
            |counts: &TrafficSum| (counts.up.packets + counts.down.packets) as u32 == packets as u32;
        if !is_unchanged(&slot_counts(slot)) {
            return SlotEviction::Changed;
        }
        let tag = bucket[slot_index].swap(TOMBSTONE, Ordering::SeqCst);
        let counts = slot_counts(slot);
        if !is_unchanged(&counts) {
            // A packet came just now: the flow stays.
            bucket[slot_index].store(tag, Ordering::SeqCst);
            return SlotEviction::Changed;
        }
        self.uncount_source(key);
        self.add_tombstone(bucket_number, slot_index, counts, None);
        SlotEviction::Evicted
    }

    /// Subtracts a flow from the sketch of its source.
    fn uncount_source(&self, key: &FlowKey) {
        let Some((sketch, source_limit)) = &self.sketch else { return };
        for cell in source_limit.cells(&source_limit.source(&key.client)) {
            if let Some(cell) = sketch.words().get(cell as usize) {
                cell.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Frees tombstones with which no packet can be in progress any more, or all of them if nothing counts.
    /// Returns the counts that they gained since their eviction.
    pub(crate) fn free_tombstones(&self, counting: bool) -> TrafficSum {
        self.stamp_tombstones();
        let (now, mut late_counts) = (clock::now(), TrafficSum::default());
        let (mut ages, mut tombstones) = (self.ages.borrow_mut(), self.tombstones.borrow_mut());
        while let Some((_, count)) = ages.pop_front_if(|(at, _)| !counting || *at + MAX_PACKET_TIME <= now) {
            tombstones.drain(..count).for_each(|tombstone| self.free_tombstone(&tombstone, &mut late_counts));
        }
        late_counts
    }

    fn free_tombstone(&self, tombstone: &Tombstone, late_counts: &mut TrafficSum) {
        let Some(bucket) = self.bucket(tombstone.bucket) else { return };
        let (slot_index, slot) =
            (usize::from(tombstone.slot_index), slot(bucket, usize::from(tombstone.slot_index)));
        late_counts.subtract(&tombstone.counts);
        let added = tombstone.original.is_some() && {
            self.duplicate_count.set(self.duplicate_count.get() - 1);
            let flow = read(slot);
            self.add(&flow.key.flow(&flow.entry.remainder), &flow.entry.counters)
        };
        if !added {
            late_counts.add(&slot_counts(slot));
        }
        slot.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        // A CPU that finds the slot empty finds zeros.
        bucket[slot_index].store(EMPTY, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
