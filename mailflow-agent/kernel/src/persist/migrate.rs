//! Migration: reads the maps of an earlier agent with which this one cannot continue, and removes them. Their
//! open flows continue.

use aya::maps::{Array, Map, MapData};
use mailflow_common::HashKeys;

use super::{
    pins::OldMaps,
    reader_checkpoint::{self, ReaderCheckpoint},
};
use crate::{
    error::KernelError,
    flow_table::{
        buckets::{BucketTable, MAX_PACKET_TIME},
        reader::{FlowReader, ScanClock, TableMaps},
        snapshot::Snapshot,
        tick_clock::TickClock,
    },
    handle::Kernel,
    program::load::{map_error, read_keys},
};
use mailflow_engine::{settings::Timeouts, time::Time};

impl Kernel {
    /// Reads the maps of an earlier agent. Call after its links were taken over, so that nothing counts into
    /// them any more. `checkpoint` is its checkpoint of them. Open flows continue in the new maps; the rest is
    /// returned by [`Kernel::take_unmigrated`]. [`Kernel::remove_old_maps`] removes the maps, after the migrated flows
    /// are stored.
    ///
    /// # Errors
    /// The kernel refuses a read; the maps stay.
    pub fn migrate(
        &mut self,
        now: Time,
        checkpoint: Option<(u32, &ReaderCheckpoint)>,
    ) -> Result<(), KernelError> {
        let Some(pinned) = &self.pinned else { return Ok(()) };
        if pinned.old.is_empty() {
            return Ok(());
        }
        std::thread::sleep(MAX_PACKET_TIME);
        let timeouts = self.reader.timeouts();
        let mut flows = Vec::new();
        for old in &pinned.old {
            let generation = old.generation();
            // An agent that ended before it removed the maps had migrated their flows.
            if generation.is_some_and(|generation| self.reader.state().read_generations.contains(&generation))
            {
                continue;
            }
            let mut snapshot = read(old, (self.ticks, timeouts, now), checkpoint)?;
            flows.append(&mut snapshot.flows);
            self.unmigrated.superseded.append(&mut snapshot.superseded);
            self.unmigrated.overflow.append(&mut snapshot.overflow);
            self.reader.state_mut().read_generations.extend(generation);
        }
        let migrated = &mut self.reader.state_mut().migrated;
        self.unmigrated.flows.extend(flows.into_iter().filter_map(|flow| migrated.add(flow, &timeouts)));
        Ok(())
    }

    /// Returns what does not continue: ended flows, and sources in the overflow map.
    pub fn take_unmigrated(&mut self) -> Snapshot {
        std::mem::take(&mut self.unmigrated)
    }

    /// Removes the maps.
    pub fn remove_old_maps(&mut self) {
        self.reader.state_mut().read_generations.clear();
        if let Some(pinned) = &mut self.pinned {
            pinned.old.drain(..).for_each(|old| old.remove());
        }
    }
}

fn read(
    old: &OldMaps,
    (ticks, timeouts, now): (TickClock, Timeouts, Time),
    checkpoint: Option<(u32, &ReaderCheckpoint)>,
) -> Result<Snapshot, KernelError> {
    let open = |map: &'static str| {
        let opened = MapData::from_pin(old.map(map));
        opened.map_err(|source| KernelError::Map { map, source: Box::new(source) })
    };
    let (fallback, superseded, overflow) = (open("FLOWS")?, open("SUPERSEDED")?, open("OVERFLOW")?);
    let checkpoint =
        checkpoint.filter(|(of, _)| Some(*of) == old.generation()).map(|(_, checkpoint)| checkpoint);
    let mut reader = FlowReader::new(timeouts);
    if let Some(checkpoint) = checkpoint {
        reader_checkpoint::restore(reader.state_mut(), checkpoint, &timeouts);
    }
    let ticks = checkpoint.and_then(|checkpoint| TickClock::from_words(checkpoint.ticks)).unwrap_or(ticks);
    let clock = ScanClock { ticks, now, tick: ticks.tick_at(now), horizon: u64::MAX };
    let buckets = open_buckets(old, read_hash_keys(open("SOURCE_SKETCH")?)?)?;
    let maps = TableMaps {
        buckets: buckets.as_ref(),
        fallback: &fallback,
        superseded: &superseded,
        overflow: &overflow,
    };
    let mut snapshot = reader.snapshot(&maps, clock)?;
    snapshot.overflow.iter_mut().for_each(|source| source.is_final = true);
    Ok(snapshot)
}

/// Returns the buckets of the flow table, if it has any.
fn open_buckets(old: &OldMaps, keys: HashKeys) -> Result<Option<BucketTable>, KernelError> {
    let path = old.map("BUCKETS");
    if !path.exists() {
        return Ok(None);
    }
    let failed = |source| KernelError::Map { map: "BUCKETS", source: Box::new(source) };
    let map = MapData::from_pin(path).map_err(failed)?;
    let count = map.info().map_err(failed)?.max_entries();
    BucketTable::open(&map, count, keys).map(Some).map_err(KernelError::FlowTable)
}

/// Returns the keys of the hashes of the maps.
fn read_hash_keys(sketch: MapData) -> Result<HashKeys, KernelError> {
    read_keys(&Array::try_from(Map::Array(sketch)).map_err(map_error("SOURCE_SKETCH"))?)
}
