//! Reader of the maps: from counters to flows with times.
//!
//! The counters of an entry continue when its 5-tuple carries a new flow. Their values at that moment are in
//! the map of superseded flows. The reader separates the flows again: a flow is what its entry gained since
//! the flow before it.

use std::{collections::HashMap, io, num::NonZeroU32};

use aya::maps::MapData;
use mailflow_common::{
    DirectionCounters, Facts, FlowCounters, FlowKey, SourceOverflowCounters, SourceOverflowKey,
    SupersededKey, hook_orientation, seen, upgrade,
};

use super::{
    batch::{self, Walker},
    buckets::Sets,
    clock::Ticks,
    conservation::{Held, Sum},
    element::pack,
};
use crate::{
    error::KernelError,
    options::SilenceLimits,
    persist::migrated_flows::{Carried, less},
};
use mailflow_engine::{
    flow::SourceOverflow,
    flow::{DirectionStats, EvictOutcome, Flow, SupersededFlow},
    time::Time,
};

/// Flows of one batch: few enough for a cache of the CPU, with everything that is derived from them.
const BATCH: usize = 256;

/// Visitor of a scan, called in the order of these methods.
pub trait Reader {
    /// Visits superseded flows, in order for each 5-tuple.
    fn finished(&mut self, finished: &[SupersededFlow]);

    /// Visits flows in the table. Returns the flows to evict.
    fn living(&mut self, flows: &[Flow]) -> &[Flow];

    /// Receives the outcomes of the evictions, in their order, after each batch.
    fn removed(&mut self, fates: &[EvictOutcome]);

    /// Visits sources in the overflow map.
    fn spilled(&mut self, spilled: &[SourceOverflow]);

    /// Called before superseded flows and idle sources are deleted.
    ///
    /// # Errors
    /// They cannot be stored, and stay in the maps.
    fn taking(&mut self, taking: Taking<'_>) -> io::Result<()> {
        let _ = taking;
        Ok(())
    }
}

/// Superseded flows and idle sources that are about to be deleted.
#[derive(Clone, Copy, Debug)]
pub enum Taking<'a> {
    /// Superseded flows, each with the counts of its entry, for [`crate::Kernel::book_finished`].
    Finished(&'a [(SupersededFlow, Vec<u8>)]),
    /// Idle sources. [`Reader::spilled`] has received their counts.
    Spilled(&'a [SourceOverflow]),
}

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
pub(crate) struct Moment<'a> {
    pub(crate) ticks: &'a Ticks,
    pub(crate) now: Time,
    /// Tick at that time.
    pub(crate) tick: u64,
    /// Tick before the scan began. Flows that began at it or later are left to the next scan: the copy of the
    /// superseded flow may have been stored too late to be read.
    pub(crate) horizon: u64,
}

/// State of the reader from one scan to the next.
pub(crate) struct Table {
    flows: Walker<FlowKey, FlowCounters>,
    retired: Walker<SupersededKey, FlowCounters>,
    overflow: Walker<SourceOverflowKey, SourceOverflowCounters>,
    /// Idle timeouts. A source without packets is deleted after the timeout of an open flow.
    limits: SilenceLimits,
    book: Book,
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

/// Evicts flows, with an outcome for each.
type Remove<'a> = &'a dyn Fn(&mut Book, &[Flow]) -> Result<Vec<EvictOutcome>, KernelError>;

impl Table {
    pub(crate) fn new(limits: SilenceLimits) -> Self {
        Self {
            flows: Walker::new(),
            retired: Walker::new(),
            overflow: Walker::new(),
            limits,
            book: Book::default(),
        }
    }

    /// Counts by location at the last scan, less what was evicted since.
    pub(crate) fn held(&self) -> &Held {
        &self.book.held
    }

    /// Sets the idle timeouts.
    pub(crate) fn set_limits(&mut self, limits: SilenceLimits) {
        self.limits = limits;
    }

    /// Scans all maps.
    pub(crate) fn read(
        &mut self,
        maps: &Maps<'_>,
        moment: Moment<'_>,
        reader: &mut dyn Reader,
        remove: Remove<'_>,
    ) -> Result<(), KernelError> {
        let finished = self.finished(maps.retired, moment, reader)?;
        if !finished.is_empty() {
            reader.finished(&finished);
        }
        self.living(maps, moment, reader, remove)?;
        self.spilled(maps.overflow, moment, reader)
    }

    /// Reads and deletes the superseded flows.
    fn finished(
        &mut self,
        retired: &MapData,
        moment: Moment<'_>,
        reader: &mut dyn Reader,
    ) -> Result<Vec<SupersededFlow>, KernelError> {
        let mut ended: Vec<(SupersededKey, FlowCounters)> = Vec::new();
        self.retired
            .walk(retired.fd(), |key, counters| ended.push((*key, *counters)))
            .map_err(KernelError::Table)?;
        if ended.is_empty() {
            return Ok(Vec::new());
        }
        ended.sort_unstable_by_key(|(key, _)| key.first);
        // Nothing of it is booked before it is gone from the table.
        let mut bases = self.book.bases.clone();
        let mut held = self.book.held;
        let (carried, limits) = (&mut self.book.carried, &self.limits);
        let finished = ended.iter().map(|(key, counters)| {
            let base = bases.insert(key.flow, *counters);
            held.finish(counters, base.as_ref());
            let flow = flow(&key.flow, counters, base.as_ref(), moment);
            let finished = SupersededFlow {
                // Of an entry's flows the first may have begun elsewhere.
                flow: if base.is_none() { carried.join(flow, limits) } else { flow },
                // Where a living flow has its mark, a finished one has when the next began.
                superseded_at: moment.ticks.time_of_word(counters.mark, moment.tick),
            };
            (finished, pack(counters))
        });
        let finished: Vec<_> = finished.collect();
        reader.taking(Taking::Finished(&finished)).map_err(KernelError::Table)?;
        // An entry never changes once it is there.
        for (key, _) in &ended {
            batch::delete(retired.fd(), key).map_err(KernelError::Table)?;
        }
        (self.book.bases, self.book.held) = (bases, held);
        for (finished, _) in &finished {
            self.book.carried.take(&finished.flow);
        }
        Ok(finished.into_iter().map(|(finished, _)| finished).collect())
    }

    fn living(
        &mut self,
        maps: &Maps<'_>,
        moment: Moment<'_>,
        reader: &mut dyn Reader,
        remove: Remove<'_>,
    ) -> Result<(), KernelError> {
        let mut living = Vec::with_capacity(BATCH);
        let mut refused = None;
        let (book, limits) = (&mut self.book, &self.limits);
        book.held.begin();
        book.carried.begin();
        let mut visit = |key: &FlowKey, counters: &FlowCounters| {
            book.enter(&mut living, key, counters, moment, limits);
            if living.len() == BATCH {
                refused = hand_over(&living, book, reader, remove).err().or(refused.take());
                living.clear();
            }
        };
        let mut twins = Vec::new();
        let beside = |key: &FlowKey, counters: &FlowCounters| {
            // One that lies there and in its set: see `Sets::walk`.
            if maps.sets.is_some_and(|sets| sets.has(key)) {
                twins.push(*key);
            } else {
                visit(key, counters);
            }
        };
        self.flows.walk(maps.flows.fd(), beside).map_err(KernelError::Table)?;
        let mut apart = Sum::default();
        if let Some(sets) = maps.sets {
            for key in &twins {
                let taken = batch::take::<FlowKey, FlowCounters>(maps.flows.fd(), key);
                let Some(counters) = taken.map_err(KernelError::Table)? else { continue };
                if !sets.join(key, &counters) {
                    apart.add(&Sum::of(&counters));
                }
            }
            apart.add(&sets.walk(&mut visit));
        }
        book.held.late(&apart);
        living.extend(book.carried.alone().cloned());
        for part in living.chunks(BATCH) {
            refused = hand_over(part, book, reader, remove).err().or(refused);
        }
        refused.map_or(Ok(()), Err)
    }

    /// Reads the overflow map, and deletes idle sources.
    fn spilled(
        &mut self,
        overflow: &MapData,
        moment: Moment<'_>,
        reader: &mut dyn Reader,
    ) -> Result<(), KernelError> {
        let mut spilled = Vec::new();
        self.overflow
            .walk(overflow.fd(), |key, counters| spilled.push(spill(key, counters, moment)))
            .map_err(KernelError::Table)?;
        let silent =
            |seen: &SourceOverflow| seen.last().is_some_and(|last| last + self.limits.idle <= moment.now);
        let over: Vec<SourceOverflow> = spilled.iter().filter(|seen| silent(seen)).cloned().collect();
        if !over.is_empty() {
            reader.taking(Taking::Spilled(&over)).map_err(KernelError::Table)?;
        }
        for seen in spilled.iter_mut().filter(|seen| silent(seen)) {
            if let Some(counters) = batch::take(overflow.fd(), &seen.key).map_err(KernelError::Table)? {
                *seen = SourceOverflow { is_final: true, ..spill(&seen.key, &counters, moment) };
            }
        }
        self.book.held.spilled(&spilled);
        if !spilled.is_empty() {
            reader.spilled(&spilled);
        }
        Ok(())
    }

    /// Returns the idle timeouts.
    pub(crate) fn limits(&self) -> SilenceLimits {
        self.limits
    }

    /// Returns the state of the reader for the entries.
    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// Returns the baselines, for changes.
    pub(crate) fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Evicts flows outside of a scan.
    pub(crate) fn remove(
        &mut self,
        flows: &[Flow],
        remove: Remove<'_>,
    ) -> Result<Vec<EvictOutcome>, KernelError> {
        remove(&mut self.book, flows)
    }
}

/// Visits a batch of live flows, and evicts those that the visitor returns.
fn hand_over(
    living: &[Flow],
    book: &mut Book,
    reader: &mut dyn Reader,
    remove: Remove<'_>,
) -> Result<(), KernelError> {
    let ended = reader.living(living);
    if ended.is_empty() {
        return Ok(());
    }
    let fates = remove(book, ended)?;
    reader.removed(&fates);
    Ok(())
}

impl Book {
    /// Adds the flow of an entry, unless it is being superseded at this moment.
    fn enter(
        &mut self,
        living: &mut Vec<Flow>,
        key: &FlowKey,
        counters: &FlowCounters,
        moment: Moment<'_>,
        limits: &SilenceLimits,
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
            *flow = self.carried.join(flow.clone(), limits);
        }
    }

    /// Returns the packets of the entry of `flow`, including the flows before it.
    pub(crate) fn packets(&self, flow: &Flow) -> u64 {
        let base = self.bases.get(&flow.key).map_or(0, |base| base.up.packets() + base.down.packets());
        let part = self.carried.part(flow).map_or(0, |part| part.up.packets + part.down.packets);
        base + flow.up.packets + flow.down.packets - part
    }

    /// Records the outcome of an eviction.
    pub(crate) fn note(&mut self, flow: &Flow, fate: EvictOutcome) {
        if fate == EvictOutcome::Changed {
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

fn direction(
    counters: &DirectionCounters,
    base: Option<&DirectionCounters>,
    moment: Moment<'_>,
) -> DirectionStats {
    let base = base.copied().unwrap_or_default();
    let data_packets = counters.data_packets.wrapping_sub(base.data_packets);
    let data_bytes = counters.data_bytes.wrapping_sub(base.data_bytes);
    let packets = data_packets + u64::from(counters.bare_packets.wrapping_sub(base.bare_packets));
    DirectionStats {
        packets,
        bytes: data_bytes + counters.bare_bytes.wrapping_sub(base.bare_bytes),
        payload: counters.payload.wrapping_sub(base.payload),
        data_packets,
        data_bytes,
        last: (packets != 0).then(|| moment.ticks.time_of_word(counters.last, moment.tick)),
    }
}

/// Returns a flow: the counts of its entry less those of the flows before it.
fn flow(key: &FlowKey, counters: &FlowCounters, base: Option<&FlowCounters>, moment: Moment<'_>) -> Flow {
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

fn spill(key: &SourceOverflowKey, counters: &SourceOverflowCounters, moment: Moment<'_>) -> SourceOverflow {
    SourceOverflow {
        key: *key,
        up: direction(&counters.up, None, moment),
        down: direction(&counters.down, None, moment),
        attempts: counters.syns,
        sessions: counters.syn_acks,
        is_final: false,
    }
}
