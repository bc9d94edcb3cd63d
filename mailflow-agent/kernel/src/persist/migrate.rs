//! Migration: reads the maps of an earlier agent with which this one cannot continue, and removes them. Their
//! open flows continue.

use aya::maps::{Array, Map, MapData};
use mailflow_common::HashKeys;

use super::{
    kernel_checkpoint::{self, Kept},
    pins::Old,
};
use crate::{
    error::KernelError,
    flow_table::{
        buckets::{Sets, UNDER_WAY},
        clock::Ticks,
        reader::{Maps, Moment, Table},
        snapshot::Snapshot,
    },
    handle::Kernel,
    program::load::{known_keys, map_error},
};
use mailflow_engine::{settings::Timeouts, time::Time};

impl Kernel {
    /// Reads the maps of an earlier agent. Call after its links were taken over, so that nothing counts into
    /// them any more. `kept` is its checkpoint of them. Open flows continue in the new maps; the rest is
    /// returned by [`Kernel::take_left`]. [`Kernel::forget_left`] removes the maps, after the migrated flows
    /// are stored.
    ///
    /// # Errors
    /// The kernel refuses a read; the maps stay.
    pub fn carry(&mut self, now: Time, kept: Option<(u32, &Kept)>) -> Result<(), KernelError> {
        let Some(pinned) = &self.pinned else { return Ok(()) };
        if pinned.old.is_empty() {
            return Ok(());
        }
        std::thread::sleep(UNDER_WAY);
        let timeouts = self.table.timeouts();
        let mut flows = Vec::new();
        for old in &pinned.old {
            let generation = old.generation();
            // An agent that ended before it removed the maps had migrated their flows.
            if generation.is_some_and(|generation| self.table.book().read.contains(&generation)) {
                continue;
            }
            let mut snapshot = read(old, (self.ticks, timeouts, now), kept)?;
            flows.append(&mut snapshot.flows);
            self.left.finished.append(&mut snapshot.finished);
            self.left.spilled.append(&mut snapshot.spilled);
            self.table.book_mut().read.extend(generation);
        }
        let carried = &mut self.table.book_mut().carried;
        self.left.flows.extend(flows.into_iter().filter_map(|flow| carried.add(flow, &timeouts)));
        Ok(())
    }

    /// Returns what does not continue: ended flows, and sources in the overflow map.
    pub fn take_left(&mut self) -> Snapshot {
        std::mem::take(&mut self.left)
    }

    /// Removes the maps.
    pub fn forget_left(&mut self) {
        self.table.book_mut().read.clear();
        if let Some(pinned) = &mut self.pinned {
            pinned.old.drain(..).for_each(|old| old.remove());
        }
    }
}

fn read(
    old: &Old,
    (ticks, timeouts, now): (Ticks, Timeouts, Time),
    kept: Option<(u32, &Kept)>,
) -> Result<Snapshot, KernelError> {
    let open = |map: &'static str| {
        let opened = MapData::from_pin(old.map(map));
        opened.map_err(|source| KernelError::Map { map, source: Box::new(source) })
    };
    let (flows, retired, overflow) = (open("FLOWS")?, open("SUPERSEDED")?, open("OVERFLOW")?);
    let kept = kept.filter(|(of, _)| Some(*of) == old.generation()).map(|(_, kept)| kept);
    let mut table = Table::new(timeouts);
    if let Some(kept) = kept {
        kernel_checkpoint::resume(table.book_mut(), kept, &timeouts);
    }
    let ticks = kept.and_then(|kept| Ticks::from_words(kept.ticks)).unwrap_or(ticks);
    let moment = Moment { ticks, now, tick: ticks.tick(now), horizon: u64::MAX };
    let sets = sets(old, keys(open("SOURCE_SKETCH")?)?)?;
    let maps = Maps { sets: sets.as_ref(), flows: &flows, retired: &retired, overflow: &overflow };
    let mut snapshot = table.snapshot(&maps, moment)?;
    snapshot.spilled.iter_mut().for_each(|spill| spill.over = true);
    Ok(snapshot)
}

/// Returns the buckets of the flow table, if it has any.
fn sets(old: &Old, keys: HashKeys) -> Result<Option<Sets>, KernelError> {
    let path = old.map("BUCKETS");
    if !path.exists() {
        return Ok(None);
    }
    let failed = |source| KernelError::Map { map: "BUCKETS", source: Box::new(source) };
    let map = MapData::from_pin(path).map_err(failed)?;
    let count = map.info().map_err(failed)?.max_entries();
    Sets::open(&map, count, keys).map(Some).map_err(KernelError::Table)
}

/// Returns the keys of the hashes of the maps.
fn keys(shares: MapData) -> Result<HashKeys, KernelError> {
    known_keys(&Array::try_from(Map::Array(shares)).map_err(map_error("SOURCE_SKETCH"))?)
}
