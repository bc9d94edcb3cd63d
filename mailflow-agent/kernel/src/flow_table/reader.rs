//! Reader of the maps: from counters to flows with times.
//!
//! The counters of an entry continue when its 5-tuple carries a new flow. Their values at that moment are in
//! the map of superseded flows. The reader separates the flows again: a flow is what its entry gained since
//! the flow before it.

use std::{collections::HashMap, num::NonZeroU32, vec};

use aya::maps::MapData;
use mailflow_common::{
    BUCKET_SLOTS, DirectionCounters, Facts, FlowCounters, FlowKey, SourceOverflowCounters, SourceOverflowKey,
    SupersededKey, hook_orientation, seen, upgrade,
};

use super::{
    batch::{self, MapCursor},
    buckets::{BucketCursor, Sets},
    clock::Ticks,
    conservation::{Held, Sum},
    element::bytes,
    snapshot::Snapshot,
};
use crate::{
    error::KernelError,
    persist::migrated_flows::{Carried, less},
};
use mailflow_engine::{
    flow::{Direction, Fate, Finished, Flow},
    settings::Timeouts,
    spill::Spill,
    time::Time,
};

/// Largest number of flows of a batch: few enough for a cache of the CPU, with everything that is derived from
/// them.
const BATCH: usize = 256;

/// Maps of a scan.
pub(crate) struct Maps<'a> {
    pub(crate) sets: Option<&'a Sets>,
    /// Fallback map.
    pub(crate) flows: &'a MapData,
    pub(crate) retired: &'a MapData,
    pub(crate) overflow: &'a MapData,
}

/// Clock context of a scan.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) ticks: Ticks,
    pub(crate) now: Time,
    /// Tick at that time.
    pub(crate) tick: u64,
    /// Tick before the scan began. Flows that began at it or later are left to the next scan: the copy of the
    /// superseded flow may have been stored too late to be read.
    pub(crate) horizon: u64,
}

/// Superseded flows in the map, to be deleted from it.
#[must_use = "the scan ends unless they are deleted"]
pub struct PendingSuperseded {
    /// In order for each 5-tuple.
    flows: Vec<Finished>,
    /// Key and counters of each flow in the map.
    entries: Vec<(SupersededKey, FlowCounters)>,
}

/// Sources in the overflow map, of which the idle ones are to be deleted.
#[must_use = "the idle sources stay in the map unless they are deleted"]
pub struct PendingOverflow {
    sources: Vec<Spill>,
    /// Index of each idle source.
    idle: Vec<usize>,
}

/// Step of a scan.
pub(crate) enum Step {
    /// Superseded flows. The scan ends unless they are deleted.
    Superseded(PendingSuperseded),
    /// Flows in the table: [`Table::batch`].
    Active,
    /// Sources in the overflow map.
    Overflow(PendingOverflow),
    /// End of the scan.
    End,
}

/// State of the reader from one scan to the next.
pub(crate) struct Table {
    flows: MapCursor<FlowKey, FlowCounters>,
    retired: MapCursor<SupersededKey, FlowCounters>,
    overflow: MapCursor<SourceOverflowKey, SourceOverflowCounters>,
    stage: Stage,
    /// Flows of the current batch. The buffer is reused from one batch to the next.
    batch: Vec<Flow>,
    /// Newest refusal of an eviction in this scan.
    refusal: Option<KernelError>,
    /// Idle timeouts, equal to those of the engine. A source without packets is deleted after the timeout of an
    /// open flow.
    timeouts: Timeouts,
    book: Book,
}

/// Stage of a scan, in order.
enum Stage {
    Superseded,
    /// Entries of the fallback map.
    Fallback {
        /// Flows that have a slot in their bucket too ([`Sets::visit_next`]).
        duplicates: Vec<FlowKey>,
    },
    Buckets(BucketCursor),
    /// Migrated flows without an entry.
    Migrated(vec::IntoIter<Flow>),
    Overflow,
    End,
}

/// State of the reader for the entries.
#[derive(Default)]
pub(crate) struct Book {
    /// Baselines: the counts of an entry at the start of its current flow, for reused 5-tuples.
    pub(crate) bases: HashMap<FlowKey, FlowCounters>,
    /// Flows that were open when these maps replaced others.
    pub(crate) carried: Carried,
    /// Maps whose flows were migrated, by the kernel's number of their flow table.
    pub(crate) read: Vec<u32>,
    pub(crate) held: Held,
}

impl PendingSuperseded {
    /// Returns each flow with the counts of its entry, for [`crate::Kernel::book_finished`].
    pub fn entries(&self) -> impl Iterator<Item = (&Finished, &[u8])> {
        let counters = self.entries.iter().map(|(_, counters)| bytes(std::slice::from_ref(counters)));
        self.flows.iter().zip(counters)
    }
}

impl PendingOverflow {
    /// Returns the idle sources, with their counts until now.
    pub fn idle(&self) -> impl Iterator<Item = &Spill> {
        self.idle.iter().map(|source| &self.sources[*source])
    }
}

impl Table {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self {
            flows: MapCursor::new(),
            retired: MapCursor::new(),
            overflow: MapCursor::new(),
            stage: Stage::End,
            batch: Vec::with_capacity(BATCH),
            refusal: None,
            timeouts,
            book: Book::default(),
        }
    }

    /// Returns the counts by location at the last scan, less what was evicted since.
    pub(crate) fn held(&self) -> &Held {
        &self.book.held
    }

    /// Sets the timeouts.
    pub(crate) fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Returns the timeouts.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Returns the state of the reader for the entries.
    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// Returns the state of the reader for the entries, for changes.
    pub(crate) fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Begins a scan.
    pub(crate) fn begin(&mut self) {
        (self.stage, self.refusal) = (Stage::Superseded, None);
    }

    /// Reads the next step of the scan: superseded flows, then batches of flows in the table, then sources. A
    /// step without flows or sources is left out.
    pub(crate) fn next(&mut self, maps: &Maps<'_>, moment: Moment) -> Result<Step, KernelError> {
        if matches!(self.stage, Stage::Superseded) {
            self.stage = Stage::End;
            let superseded = self.superseded(maps.retired, moment)?;
            if !superseded.flows.is_empty() {
                return Ok(Step::Superseded(superseded));
            }
            self.begin_flows();
        }
        self.fill(maps, moment)?;
        if !self.batch.is_empty() {
            return Ok(Step::Active);
        }
        if matches!(self.stage, Stage::Overflow) {
            self.stage = Stage::End;
            if let Some(refusal) = self.refusal.take() {
                return Err(refusal);
            }
            let overflow = self.overflow(maps.overflow, moment)?;
            if !overflow.sources.is_empty() {
                return Ok(Step::Overflow(overflow));
            }
            self.book.held.spilled(&[]);
        }
        Ok(Step::End)
    }

    /// Returns the flows of the current batch.
    pub(crate) fn batch(&self) -> &[Flow] {
        &self.batch
    }

    /// Records that the kernel refused an eviction. The scan goes on, so that every flow is observed, and ends
    /// with the refusal after the flows.
    pub(crate) fn refuse(&mut self, refusal: KernelError) {
        self.refusal = Some(refusal);
    }

    /// Returns the contents of all maps. Deletes superseded flows and idle sources.
    pub(crate) fn snapshot(&mut self, maps: &Maps<'_>, moment: Moment) -> Result<Snapshot, KernelError> {
        let mut snapshot = Snapshot::default();
        self.begin();
        loop {
            match self.next(maps, moment)? {
                Step::Superseded(flows) => snapshot.finished = self.delete_superseded(maps.retired, flows)?,
                Step::Active => snapshot.flows.extend_from_slice(&self.batch),
                Step::Overflow(sources) => {
                    snapshot.spilled = self.delete_idle(maps.overflow, sources, moment)?;
                }
                Step::End => return Ok(snapshot),
            }
        }
    }

    /// Reads the superseded flows.
    fn superseded(&mut self, retired: &MapData, moment: Moment) -> Result<PendingSuperseded, KernelError> {
        let mut entries: Vec<(SupersededKey, FlowCounters)> = Vec::new();
        self.retired.rewind();
        while let Some((key, counters)) = self.retired.next(retired.fd()).map_err(KernelError::Table)? {
            entries.push((*key, *counters));
        }
        entries.sort_unstable_by_key(|(key, _)| key.first);
        // The reader keeps its baselines until the entries are deleted: a refused deletion changes no count.
        let mut bases: HashMap<FlowKey, &FlowCounters> = HashMap::new();
        let mut flows = Vec::with_capacity(entries.len());
        for (key, counters) in &entries {
            let base = bases.insert(key.flow, counters).or_else(|| self.book.bases.get(&key.flow));
            let flow = flow(&key.flow, counters, base, moment);
            flows.push(Finished {
                // Of an entry's flows the first may have begun elsewhere.
                flow: if base.is_none() { self.book.carried.join(flow, &self.timeouts) } else { flow },
                // Where a living flow has its mark, a finished one has when the next began.
                replaced: moment.ticks.time_of_word(counters.mark, moment.tick),
            });
        }
        Ok(PendingSuperseded { flows, entries })
    }

    /// Deletes superseded flows, and accounts for them. Returns the flows.
    pub(crate) fn delete_superseded(
        &mut self,
        retired: &MapData,
        PendingSuperseded { flows, entries }: PendingSuperseded,
    ) -> Result<Vec<Finished>, KernelError> {
        // An entry never changes once it is there.
        for (key, _) in &entries {
            batch::delete(retired.fd(), key).map_err(KernelError::Table)?;
        }
        for (key, counters) in &entries {
            let base = self.book.bases.insert(key.flow, *counters);
            self.book.held.finish(counters, base.as_ref());
        }
        for finished in &flows {
            self.book.carried.take(&finished.flow);
        }
        self.begin_flows();
        Ok(flows)
    }

    /// Begins to read the flows in the table.
    fn begin_flows(&mut self) {
        self.book.held.begin();
        self.book.carried.begin();
        self.flows.rewind();
        self.stage = Stage::Fallback { duplicates: Vec::new() };
    }

    /// Fills the batch with the next flows of the table. Leaves it empty after the last flow.
    fn fill(&mut self, maps: &Maps<'_>, moment: Moment) -> Result<(), KernelError> {
        let Self { flows, stage, batch, timeouts, book, .. } = self;
        batch.clear();
        // All flows of a bucket fit into the batch.
        while batch.len() + BUCKET_SLOTS <= BATCH {
            let next = match stage {
                Stage::Fallback { duplicates } => {
                    match flows.next(maps.flows.fd()).map_err(KernelError::Table)? {
                        Some((key, _)) if maps.sets.is_some_and(|sets| sets.has(key)) => {
                            duplicates.push(*key);
                            continue;
                        }
                        Some((key, counters)) => {
                            book.enter(batch, key, counters, moment, timeouts);
                            continue;
                        }
                        None => {
                            let apart = merge_duplicates(maps, duplicates)?;
                            Stage::Buckets(BucketCursor::new(apart))
                        }
                    }
                }
                Stage::Buckets(cursor) => {
                    let mut enter = |key: &FlowKey, counters: &FlowCounters| {
                        book.enter(batch, key, counters, moment, timeouts);
                    };
                    if maps.sets.is_some_and(|sets| sets.visit_next(cursor, &mut enter)) {
                        continue;
                    }
                    book.held.late(&cursor.apart);
                    Stage::Migrated(book.carried.alone().cloned().collect::<Vec<_>>().into_iter())
                }
                Stage::Migrated(alone) => match alone.next() {
                    Some(flow) => {
                        batch.push(flow);
                        continue;
                    }
                    None => Stage::Overflow,
                },
                Stage::Superseded | Stage::Overflow | Stage::End => break,
            };
            *stage = next;
        }
        Ok(())
    }

    /// Reads the sources in the overflow map.
    fn overflow(&mut self, overflow: &MapData, moment: Moment) -> Result<PendingOverflow, KernelError> {
        let mut sources = Vec::new();
        self.overflow.rewind();
        while let Some((key, counters)) = self.overflow.next(overflow.fd()).map_err(KernelError::Table)? {
            sources.push(spill(key, counters, moment));
        }
        let is_idle =
            |source: &Spill| source.last().is_some_and(|last| last + self.timeouts.idle <= moment.now);
        let idle =
            (0..).zip(&sources).filter(|(_, source)| is_idle(source)).map(|(index, _)| index).collect();
        Ok(PendingOverflow { sources, idle })
    }

    /// Deletes idle sources, and accounts for all sources. Returns all sources, with their last counts.
    pub(crate) fn delete_idle(
        &mut self,
        overflow: &MapData,
        PendingOverflow { mut sources, idle }: PendingOverflow,
        moment: Moment,
    ) -> Result<Vec<Spill>, KernelError> {
        for index in idle {
            let source = &mut sources[index];
            if let Some(counters) = batch::take(overflow.fd(), &source.key).map_err(KernelError::Table)? {
                *source = Spill { over: true, ..spill(&source.key, &counters, moment) };
            }
        }
        self.book.held.spilled(&sources);
        Ok(sources)
    }
}

/// Moves the counts of flows in the fallback map to the slots of these flows. Returns the counts of flows that
/// have no slot any more.
fn merge_duplicates(maps: &Maps<'_>, duplicates: &[FlowKey]) -> Result<Sum, KernelError> {
    let mut apart = Sum::default();
    let Some(sets) = maps.sets else { return Ok(apart) };
    for key in duplicates {
        let taken = batch::take::<FlowKey, FlowCounters>(maps.flows.fd(), key);
        let Some(counters) = taken.map_err(KernelError::Table)? else { continue };
        if !sets.join(key, &counters) {
            apart.add(&Sum::of(&counters));
        }
    }
    Ok(apart)
}

impl Book {
    /// Adds the flow of an entry, unless it is being superseded at this moment.
    fn enter(
        &mut self,
        living: &mut Vec<Flow>,
        key: &FlowKey,
        counters: &FlowCounters,
        moment: Moment,
        timeouts: &Timeouts,
    ) {
        let base = self.bases.get(key);
        self.held.live(counters, base);
        let unsettled = base.is_some_and(|base| base.first == counters.first);
        if counters.first >= moment.horizon || unsettled {
            return self.carried.pass(key);
        }
        living.push(flow(key, counters, base, moment));
        if base.is_none()
            && !self.carried.is_empty()
            && let Some(flow) = living.last_mut()
        {
            *flow = self.carried.join(flow.clone(), timeouts);
        }
    }

    /// Returns the packets of the entry of `flow`, including the flows before it.
    pub(crate) fn packets(&self, flow: &Flow) -> u64 {
        let base = self.bases.get(&flow.key).map_or(0, |base| base.up.packets() + base.down.packets());
        let part = self.carried.part(flow).map_or(0, |part| part.up.packets + part.down.packets);
        base + flow.up.packets + flow.down.packets - part
    }

    /// Records the outcome of an eviction.
    pub(crate) fn note(&mut self, flow: &Flow, fate: Fate) {
        if fate == Fate::Lives {
            return;
        }
        let over = self.carried.is_over(flow);
        let part = self.carried.take(flow);
        let own = part.map_or_else(|| flow.clone(), |part| less(flow, &part));
        // One that had no entry is in no number of these tables.
        if own.up.packets + own.down.packets > 0 && !over {
            self.held.remove(&own);
            self.bases.remove(&flow.key);
        }
    }
}

fn direction(counters: &DirectionCounters, base: Option<&DirectionCounters>, moment: Moment) -> Direction {
    let base = base.copied().unwrap_or_default();
    let data_packets = counters.data_packets.wrapping_sub(base.data_packets);
    let data_bytes = counters.data_bytes.wrapping_sub(base.data_bytes);
    let packets = data_packets + u64::from(counters.bare_packets.wrapping_sub(base.bare_packets));
    Direction {
        packets,
        bytes: data_bytes + counters.bare_bytes.wrapping_sub(base.bare_bytes),
        payload: counters.payload.wrapping_sub(base.payload),
        data_packets,
        data_bytes,
        last: (packets != 0).then(|| moment.ticks.time_of_word(counters.last, moment.tick)),
    }
}

/// Returns a flow: the counts of its entry less those of the flows before it.
fn flow(key: &FlowKey, counters: &FlowCounters, base: Option<&FlowCounters>, moment: Moment) -> Flow {
    Flow {
        key: *key,
        up: direction(&counters.up, base.map(|base| &base.up), moment),
        down: direction(&counters.down, base.map(|base| &base.down), moment),
        first: moment.ticks.time(counters.first),
        messages: counters.messages.wrapping_sub(base.map_or(0, |base| base.messages)),
        rejected: counters.rejected.wrapping_sub(base.map_or(0, |base| base.rejected)),
        mac: (counters.mac != [0; 6]).then_some(counters.mac),
        interface: NonZeroU32::new(counters.interface),
        facts: facts(counters.facts),
    }
}

/// Returns the facts without bits that only the program uses.
fn facts(facts: Facts) -> Facts {
    const KEPT: u8 = seen::DOWN | seen::MPTCP_JOIN | seen::MPTCP_JOINED;
    Facts {
        inspected: facts.inspected & !hook_orientation::BITS,
        seen: facts.seen & KEPT,
        upgrade: facts.upgrade & upgrade::BITS,
        ..facts
    }
}

fn spill(key: &SourceOverflowKey, counters: &SourceOverflowCounters, moment: Moment) -> Spill {
    Spill {
        key: *key,
        up: direction(&counters.up, None, moment),
        down: direction(&counters.down, None, moment),
        attempts: counters.syns,
        sessions: counters.syn_acks,
        over: false,
    }
}
