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
    buckets::{BucketCursor, BucketTable},
    conservation::{PacketAudit, TrafficSum},
    element::bytes,
    snapshot::Snapshot,
    tick_clock::TickClock,
};
use crate::{
    error::KernelError,
    persist::migrated_flows::{MigratedFlows, subtract},
};
use mailflow_engine::{
    flow::{DirectionStats, EvictOutcome, Flow, SourceOverflow, SupersededFlow},
    settings::Timeouts,
    time::Time,
};

/// Largest number of flows of a batch: few enough for a cache of the CPU, with everything that is derived from
/// them.
const MAX_BATCH_FLOWS: usize = 256;

/// Maps of a scan.
pub(crate) struct TableMaps<'a> {
    pub(crate) buckets: Option<&'a BucketTable>,
    /// Fallback map.
    pub(crate) fallback: &'a MapData,
    pub(crate) superseded: &'a MapData,
    pub(crate) overflow: &'a MapData,
}

/// Clock context of a scan.
#[derive(Clone, Copy)]
pub(crate) struct ScanClock {
    pub(crate) ticks: TickClock,
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
    flows: Vec<SupersededFlow>,
    /// Key and counters of each flow in the map.
    entries: Vec<(SupersededKey, FlowCounters)>,
}

/// Sources in the overflow map, of which the idle ones are to be deleted.
#[must_use = "the idle sources stay in the map unless they are deleted"]
pub struct PendingOverflow {
    sources: Vec<SourceOverflow>,
    /// Index of each idle source.
    idle: Vec<usize>,
}

/// Step of a scan.
pub(crate) enum ScanStep {
    /// Superseded flows. The scan ends unless they are deleted.
    Superseded(PendingSuperseded),
    /// Flows in the table: [`FlowReader::batch`].
    Active,
    /// Sources in the overflow map.
    Overflow(PendingOverflow),
    /// End of the scan.
    End,
}

/// State of the reader from one scan to the next.
pub(crate) struct FlowReader {
    fallback: MapCursor<FlowKey, FlowCounters>,
    superseded: MapCursor<SupersededKey, FlowCounters>,
    overflow: MapCursor<SourceOverflowKey, SourceOverflowCounters>,
    stage: ScanStage,
    /// Flows of the current batch. The buffer is reused from one batch to the next.
    batch: Vec<Flow>,
    /// Newest refusal of an eviction in this scan.
    refusal: Option<KernelError>,
    /// Idle timeouts, equal to those of the engine. A source without packets is deleted after the timeout of an
    /// open flow.
    timeouts: Timeouts,
    state: ReaderState,
}

/// Stage of a scan, in order.
enum ScanStage {
    Superseded,
    /// Entries of the fallback map.
    Fallback {
        /// Flows that have a slot in their bucket too ([`BucketTable::visit_next`]).
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
pub(crate) struct ReaderState {
    /// Baselines: the counts of an entry at the start of its current flow, for reused 5-tuples.
    pub(crate) baselines: HashMap<FlowKey, FlowCounters>,
    /// Flows that were open when these maps replaced others.
    pub(crate) migrated: MigratedFlows,
    /// Maps whose flows were migrated, by the kernel's number of their flow table.
    pub(crate) read_generations: Vec<u32>,
    pub(crate) audit: PacketAudit,
}

impl PendingSuperseded {
    /// Returns each flow with the counts of its entry, for [`crate::Kernel::account_superseded`].
    pub fn entries(&self) -> impl Iterator<Item = (&SupersededFlow, &[u8])> {
        let counters = self.entries.iter().map(|(_, counters)| bytes(std::slice::from_ref(counters)));
        self.flows.iter().zip(counters)
    }
}

impl PendingOverflow {
    /// Returns the idle sources, with their counts until now.
    pub fn idle(&self) -> impl Iterator<Item = &SourceOverflow> {
        self.idle.iter().map(|source| &self.sources[*source])
    }
}

impl FlowReader {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self {
            fallback: MapCursor::new(),
            superseded: MapCursor::new(),
            overflow: MapCursor::new(),
            stage: ScanStage::End,
            batch: Vec::with_capacity(MAX_BATCH_FLOWS),
            refusal: None,
            timeouts,
            state: ReaderState::default(),
        }
    }

    /// Returns the counts by location at the last scan, less what was evicted since.
    pub(crate) fn audit(&self) -> &PacketAudit {
        &self.state.audit
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
    pub(crate) fn state(&self) -> &ReaderState {
        &self.state
    }

    /// Returns the state of the reader for the entries, for changes.
    pub(crate) fn state_mut(&mut self) -> &mut ReaderState {
        &mut self.state
    }

    /// Begins a scan.
    pub(crate) fn begin(&mut self) {
        (self.stage, self.refusal) = (ScanStage::Superseded, None);
    }

    /// Reads the next step of the scan: superseded flows, then batches of flows in the table, then sources. A
    /// step without flows or sources is left out.
    pub(crate) fn next(&mut self, maps: &TableMaps<'_>, clock: ScanClock) -> Result<ScanStep, KernelError> {
        if matches!(self.stage, ScanStage::Superseded) {
            self.stage = ScanStage::End;
            let superseded = self.read_superseded(maps.superseded, clock)?;
            if !superseded.flows.is_empty() {
                return Ok(ScanStep::Superseded(superseded));
            }
            self.begin_flows();
        }
        self.fill(maps, clock)?;
        if !self.batch.is_empty() {
            return Ok(ScanStep::Active);
        }
        if matches!(self.stage, ScanStage::Overflow) {
            self.stage = ScanStage::End;
            if let Some(refusal) = self.refusal.take() {
                return Err(refusal);
            }
            let overflow = self.read_overflow(maps.overflow, clock)?;
            if !overflow.sources.is_empty() {
                return Ok(ScanStep::Overflow(overflow));
            }
            self.state.audit.set_overflow(&[]);
        }
        Ok(ScanStep::End)
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
    pub(crate) fn snapshot(
        &mut self,
        maps: &TableMaps<'_>,
        clock: ScanClock,
    ) -> Result<Snapshot, KernelError> {
        let mut snapshot = Snapshot::default();
        self.begin();
        loop {
            match self.next(maps, clock)? {
                ScanStep::Superseded(flows) => {
                    snapshot.superseded = self.delete_superseded(maps.superseded, flows)?
                }
                ScanStep::Active => snapshot.flows.extend_from_slice(&self.batch),
                ScanStep::Overflow(sources) => {
                    snapshot.overflow = self.delete_idle_sources(maps.overflow, sources, clock)?;
                }
                ScanStep::End => return Ok(snapshot),
            }
        }
    }

    /// Reads the superseded flows.
    fn read_superseded(
        &mut self,
        superseded: &MapData,
        clock: ScanClock,
    ) -> Result<PendingSuperseded, KernelError> {
        let mut entries: Vec<(SupersededKey, FlowCounters)> = Vec::new();
        self.superseded.rewind();
        while let Some((key, counters)) =
            self.superseded.next(superseded.fd()).map_err(KernelError::FlowTable)?
        {
            entries.push((*key, *counters));
        }
        entries.sort_unstable_by_key(|(key, _)| key.first);
        // The reader keeps its baselines until the entries are deleted: a refused deletion changes no count.
        let mut baselines: HashMap<FlowKey, &FlowCounters> = HashMap::new();
        let mut flows = Vec::with_capacity(entries.len());
        for (key, counters) in &entries {
            let baseline =
                baselines.insert(key.flow, counters).or_else(|| self.state.baselines.get(&key.flow));
            let flow = flow(&key.flow, counters, baseline, clock);
            flows.push(SupersededFlow {
                // The first flow of an entry may continue a migrated flow.
                flow: if baseline.is_none() {
                    self.state.migrated.merge_entry(flow, &self.timeouts)
                } else {
                    flow
                },
                // In a superseded flow this field is the start of the next flow.
                superseded_at: clock.ticks.time_of_word(counters.mark, clock.tick),
            });
        }
        Ok(PendingSuperseded { flows, entries })
    }

    /// Deletes superseded flows, and accounts for them. Returns the flows.
    pub(crate) fn delete_superseded(
        &mut self,
        superseded: &MapData,
        PendingSuperseded { flows, entries }: PendingSuperseded,
    ) -> Result<Vec<SupersededFlow>, KernelError> {
        // The program never changes an entry of this map.
        for (key, _) in &entries {
            batch::delete(superseded.fd(), key).map_err(KernelError::FlowTable)?;
        }
        for (key, counters) in &entries {
            let baseline = self.state.baselines.insert(key.flow, *counters);
            self.state.audit.add_superseded(counters, baseline.as_ref());
        }
        for flow in &flows {
            self.state.migrated.remove(&flow.flow);
        }
        self.begin_flows();
        Ok(flows)
    }

    /// Begins to read the flows in the table.
    fn begin_flows(&mut self) {
        self.state.audit.begin_scan();
        self.state.migrated.begin_scan();
        self.fallback.rewind();
        self.stage = ScanStage::Fallback { duplicates: Vec::new() };
    }

    /// Fills the batch with the next flows of the table. Leaves it empty after the last flow.
    fn fill(&mut self, maps: &TableMaps<'_>, clock: ScanClock) -> Result<(), KernelError> {
        let Self { fallback, stage, batch, timeouts, state, .. } = self;
        batch.clear();
        // All flows of a bucket fit into the batch.
        while batch.len() + BUCKET_SLOTS <= MAX_BATCH_FLOWS {
            let next = match stage {
                ScanStage::Fallback { duplicates } => {
                    match fallback.next(maps.fallback.fd()).map_err(KernelError::FlowTable)? {
                        Some((key, _)) if maps.buckets.is_some_and(|buckets| buckets.contains(key)) => {
                            duplicates.push(*key);
                            continue;
                        }
                        Some((key, counters)) => {
                            state.add_entry(batch, key, counters, clock, timeouts);
                            continue;
                        }
                        None => {
                            let unmerged = merge_duplicates(maps, duplicates)?;
                            ScanStage::Buckets(BucketCursor::new(unmerged))
                        }
                    }
                }
                ScanStage::Buckets(cursor) => {
                    let mut add_entry = |key: &FlowKey, counters: &FlowCounters| {
                        state.add_entry(batch, key, counters, clock, timeouts);
                    };
                    if maps.buckets.is_some_and(|buckets| buckets.visit_next(cursor, &mut add_entry)) {
                        continue;
                    }
                    state.audit.add_late(&cursor.unmerged);
                    ScanStage::Migrated(
                        state.migrated.without_entry().cloned().collect::<Vec<_>>().into_iter(),
                    )
                }
                ScanStage::Migrated(flows) => match flows.next() {
                    Some(flow) => {
                        batch.push(flow);
                        continue;
                    }
                    None => ScanStage::Overflow,
                },
                ScanStage::Superseded | ScanStage::Overflow | ScanStage::End => break,
            };
            *stage = next;
        }
        Ok(())
    }

    /// Reads the sources in the overflow map.
    fn read_overflow(
        &mut self,
        overflow: &MapData,
        clock: ScanClock,
    ) -> Result<PendingOverflow, KernelError> {
        let mut sources = Vec::new();
        self.overflow.rewind();
        while let Some((key, counters)) = self.overflow.next(overflow.fd()).map_err(KernelError::FlowTable)? {
            sources.push(source_overflow(key, counters, clock));
        }
        let is_idle = |source: &SourceOverflow| {
            source.last().is_some_and(|last| last + self.timeouts.idle <= clock.now)
        };
        let idle =
            (0..).zip(&sources).filter(|(_, source)| is_idle(source)).map(|(index, _)| index).collect();
        Ok(PendingOverflow { sources, idle })
    }

    /// Deletes idle sources, and accounts for all sources. Returns all sources, with their last counts.
    pub(crate) fn delete_idle_sources(
        &mut self,
        overflow: &MapData,
        PendingOverflow { mut sources, idle }: PendingOverflow,
        clock: ScanClock,
    ) -> Result<Vec<SourceOverflow>, KernelError> {
        for index in idle {
            let source = &mut sources[index];
            if let Some(counters) =
                batch::remove(overflow.fd(), &source.key).map_err(KernelError::FlowTable)?
            {
                *source = SourceOverflow { is_final: true, ..source_overflow(&source.key, &counters, clock) };
            }
        }
        self.state.audit.set_overflow(&sources);
        Ok(sources)
    }
}

/// Moves the counts of flows in the fallback map to the slots of these flows. Returns the counts of flows that
/// have no slot any more.
fn merge_duplicates(maps: &TableMaps<'_>, duplicates: &[FlowKey]) -> Result<TrafficSum, KernelError> {
    let mut unmerged = TrafficSum::default();
    let Some(buckets) = maps.buckets else { return Ok(unmerged) };
    for key in duplicates {
        let removed = batch::remove::<FlowKey, FlowCounters>(maps.fallback.fd(), key);
        let Some(counters) = removed.map_err(KernelError::FlowTable)? else { continue };
        if !buckets.merge_fallback(key, &counters) {
            unmerged.add(&TrafficSum::of(&counters));
        }
    }
    Ok(unmerged)
}

impl ReaderState {
    /// Adds the flow of an entry, unless it is being superseded at this moment.
    fn add_entry(
        &mut self,
        living: &mut Vec<Flow>,
        key: &FlowKey,
        counters: &FlowCounters,
        clock: ScanClock,
        timeouts: &Timeouts,
    ) {
        let baseline = self.baselines.get(key);
        self.audit.add_active(counters, baseline);
        let unsettled = baseline.is_some_and(|baseline| baseline.first == counters.first);
        if counters.first >= clock.horizon || unsettled {
            return self.migrated.mark_found(key);
        }
        living.push(flow(key, counters, baseline, clock));
        if baseline.is_none()
            && !self.migrated.is_empty()
            && let Some(flow) = living.last_mut()
        {
            *flow = self.migrated.merge_entry(flow.clone(), timeouts);
        }
    }

    /// Returns the packets of the entry of `flow`, including the flows before it.
    pub(crate) fn entry_packets(&self, flow: &Flow) -> u64 {
        let baseline = self
            .baselines
            .get(&flow.key)
            .map_or(0, |baseline| baseline.up.packets() + baseline.down.packets());
        let migrated_part =
            self.migrated.migrated_part(flow).map_or(0, |part| part.up.packets + part.down.packets);
        baseline + flow.up.packets + flow.down.packets - migrated_part
    }

    /// Records the outcome of an eviction.
    pub(crate) fn record_eviction(&mut self, flow: &Flow, outcome: EvictOutcome) {
        if outcome == EvictOutcome::Changed {
            return;
        }
        let ended = self.migrated.has_ended(flow);
        let migrated_part = self.migrated.remove(flow);
        let counted = migrated_part.map_or_else(|| flow.clone(), |part| subtract(flow, &part));
        // A flow without an entry is in no count of these maps.
        if counted.up.packets + counted.down.packets > 0 && !ended {
            self.audit.add_evicted(&counted);
            self.baselines.remove(&flow.key);
        }
    }
}

fn direction(
    counters: &DirectionCounters,
    baseline: Option<&DirectionCounters>,
    clock: ScanClock,
) -> DirectionStats {
    let baseline = baseline.copied().unwrap_or_default();
    let data_packets = counters.data_packets.wrapping_sub(baseline.data_packets);
    let data_bytes = counters.data_bytes.wrapping_sub(baseline.data_bytes);
    let packets = data_packets + u64::from(counters.bare_packets.wrapping_sub(baseline.bare_packets));
    DirectionStats {
        packets,
        bytes: data_bytes + counters.bare_bytes.wrapping_sub(baseline.bare_bytes),
        payload: counters.payload.wrapping_sub(baseline.payload),
        data_packets,
        data_bytes,
        last: (packets != 0).then(|| clock.ticks.time_of_word(counters.last, clock.tick)),
    }
}

/// Returns a flow: the counts of its entry less those of the flows before it.
fn flow(key: &FlowKey, counters: &FlowCounters, baseline: Option<&FlowCounters>, clock: ScanClock) -> Flow {
    Flow {
        key: *key,
        up: direction(&counters.up, baseline.map(|baseline| &baseline.up), clock),
        down: direction(&counters.down, baseline.map(|baseline| &baseline.down), clock),
        first: clock.ticks.time_of(counters.first),
        messages: counters.messages.wrapping_sub(baseline.map_or(0, |baseline| baseline.messages)),
        rejected: counters.rejected.wrapping_sub(baseline.map_or(0, |baseline| baseline.rejected)),
        mac: (counters.mac != [0; 6]).then_some(counters.mac),
        interface: NonZeroU32::new(counters.interface),
        facts: facts(counters.facts),
    }
}

/// Returns the facts without bits that only the program uses.
fn facts(facts: Facts) -> Facts {
    const RECORD_FACTS: u8 = seen::DOWN | seen::MPTCP_JOIN | seen::MPTCP_JOINED;
    Facts {
        inspected: facts.inspected & !hook_orientation::BITS,
        seen: facts.seen & RECORD_FACTS,
        upgrade: facts.upgrade & upgrade::BITS,
        ..facts
    }
}

fn source_overflow(
    key: &SourceOverflowKey,
    counters: &SourceOverflowCounters,
    clock: ScanClock,
) -> SourceOverflow {
    SourceOverflow {
        key: *key,
        up: direction(&counters.up, None, clock),
        down: direction(&counters.down, None, clock),
        attempts: counters.syns,
        sessions: counters.syn_acks,
        is_final: false,
    }
}
