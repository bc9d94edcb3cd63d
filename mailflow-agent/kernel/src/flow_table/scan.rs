//! Scan of the maps: the caller reads batches, and has flows evicted between them.
//!
//! The caller stores what it needs of a batch before it has anything of the batch deleted: a superseded flow and
//! an idle source can be taken from a batch only by its deletion.

use mailflow_common::EntryCounts;

use super::{
    evict,
    reader::{PendingOverflow, PendingSuperseded, ScanClock, ScanStep},
    snapshot::Snapshot,
};
use crate::{error::KernelError, handle::Kernel};
use mailflow_engine::{
    flow::{EvictOutcome, Flow, SourceOverflow, SupersededFlow},
    time::Time,
};

/// Batch of a scan.
pub enum FlowBatch<'a> {
    /// Superseded flows, for [`FlowScan::delete_superseded`].
    Superseded(PendingSuperseded),
    /// Flows in the table. Ended flows are for [`FlowScan::evict`].
    Active(&'a [Flow]),
    /// Sources in the overflow map, for [`FlowScan::delete_idle_sources`].
    Overflow(PendingOverflow),
}

/// Scan of the maps. It reads superseded flows, then the flows in the table, then sources.
pub struct FlowScan<'a> {
    kernel: &'a mut Kernel,
    start: ScanStart,
}

/// State of the kernel when the scan began.
struct ScanStart {
    clock: ScanClock,
    /// True if packets are counted at the same time.
    counting: bool,
    /// Entries that the program had inserted.
    inserted: EntryCounts,
}

impl Kernel {
    /// Begins a scan of the maps.
    ///
    /// A flow that begins during the scan may be left to the next one.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn scan(&mut self, now: Time) -> Result<FlowScan<'_>, KernelError> {
        let start = self.begin_scan(now)?;
        self.reader.begin();
        Ok(FlowScan { kernel: self, start })
    }

    /// Returns the contents of all maps, for small tables. Deletes superseded flows and idle sources, and evicts
    /// no flow.
    ///
    /// # Errors
    /// The kernel refuses a read or a deletion.
    pub fn snapshot(&mut self, now: Time) -> Result<Snapshot, KernelError> {
        let start = self.begin_scan(now)?;
        let snapshot = self.reader.snapshot(&self.loaded.table_maps()?, start.clock)?;
        self.end_scan(&start)?;
        Ok(snapshot)
    }

    /// Evicts flows, each only if it has not changed since the last scan. Returns an outcome for each, in
    /// order.
    ///
    /// # Errors
    /// The kernel refuses it; flows before the refusal may be gone.
    pub fn evict(&mut self, flows: &[Flow]) -> Result<Vec<EvictOutcome>, KernelError> {
        let counting = self.counting();
        evict::evict_flows(&self.loaded, self.reader.state_mut(), flows, counting)
    }

    fn begin_scan(&mut self, now: Time) -> Result<ScanStart, KernelError> {
        self.loaded.log.flush();
        let counting = self.counting();
        let horizon = if counting { self.current_tick()? } else { u64::MAX };
        let clock = ScanClock { ticks: self.ticks, now, tick: self.ticks.tick_at(now), horizon };
        // Before the scan: an entry that is inserted during the scan must count against the limits.
        let inserted = self.loaded.entries_inserted()?;
        if let Some(buckets) = &self.loaded.buckets {
            self.reader.state_mut().audit.add_late(&buckets.free_tombstones(counting));
        }
        Ok(ScanStart { clock, counting, inserted })
    }

    fn end_scan(&mut self, start: &ScanStart) -> Result<(), KernelError> {
        let audit = self.reader.audit();
        self.loaded.set_entry_limits(start.inserted, (audit.flows, audit.sources))
    }
}

impl FlowScan<'_> {
    /// Reads the next batch; `None` at the end of the scan.
    ///
    /// # Errors
    /// The kernel refuses a read, or it refused an eviction of this scan; the batches before are valid.
    pub fn next_batch(&mut self) -> Result<Option<FlowBatch<'_>>, KernelError> {
        let Kernel { loaded, reader, .. } = &mut *self.kernel;
        match reader.next(&loaded.table_maps()?, self.start.clock)? {
            ScanStep::Superseded(flows) => Ok(Some(FlowBatch::Superseded(flows))),
            ScanStep::Active => Ok(Some(FlowBatch::Active(self.kernel.reader.batch()))),
            ScanStep::Overflow(sources) => Ok(Some(FlowBatch::Overflow(sources))),
            ScanStep::End => self.kernel.end_scan(&self.start).map(|()| None),
        }
    }

    /// Deletes superseded flows. Returns them, in order for each 5-tuple.
    ///
    /// # Errors
    /// The kernel refuses a deletion.
    pub fn delete_superseded(
        &mut self,
        flows: PendingSuperseded,
    ) -> Result<Vec<SupersededFlow>, KernelError> {
        let Kernel { loaded, reader, .. } = &mut *self.kernel;
        reader.delete_superseded(loaded.table_maps()?.superseded, flows)
    }

    /// Evicts flows, each only if it has not changed since it was read. Returns an outcome for each, in order.
    ///
    /// If the kernel refuses, there are no outcomes: flows may be gone or not. The scan goes on, so that every
    /// flow is observed, and [`FlowScan::next_batch`] returns the error after the last flow.
    pub fn evict(&mut self, flows: &[Flow]) -> Option<Vec<EvictOutcome>> {
        let Kernel { loaded, reader, .. } = &mut *self.kernel;
        let outcomes = evict::evict_flows(loaded, reader.state_mut(), flows, self.start.counting);
        outcomes.map_err(|error| reader.refuse(error)).ok()
    }

    /// Deletes idle sources. Returns all sources, with their last counts.
    ///
    /// # Errors
    /// The kernel refuses a deletion.
    pub fn delete_idle_sources(
        &mut self,
        sources: PendingOverflow,
    ) -> Result<Vec<SourceOverflow>, KernelError> {
        let Kernel { loaded, reader, .. } = &mut *self.kernel;
        reader.delete_idle_sources(loaded.table_maps()?.overflow, sources, self.start.clock)
    }
}
