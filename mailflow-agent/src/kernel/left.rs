//! Tables that an agent before left and this one cannot go on with: read once more, and removed.

use aya::maps::{Array, Map, MapData, MapInfo};
use mailflow_common::SEED_CELLS;

use super::{
    Kernel, Snapshot,
    error::KernelError,
    keep::{self, Kept},
    pins::Old,
    table::{Maps, Moment, Table},
    ticks::Ticks,
};
use crate::engine::{flow::Flow, time::Time};

/// How long a packet may still be under way through the program before.
const UNDER_WAY: std::time::Duration = std::time::Duration::from_millis(20);

impl Kernel {
    /// What the tables hold that an agent before left; to be asked once its links were taken over, so that
    /// nobody counts into them any more. `kept` is what it knew of them. They are removed by
    /// [`Kernel::forget_left`].
    ///
    /// # Errors
    /// The kernel refuses a read; the tables stay.
    pub fn left(&mut self, now: Time, kept: Option<(u32, &Kept)>) -> Result<Vec<Snapshot>, KernelError> {
        let Some(pinned) = &self.pinned else { return Ok(Vec::new()) };
        if pinned.old.is_empty() {
            return Ok(Vec::new());
        }
        std::thread::sleep(UNDER_WAY);
        let idle = self.table.idle();
        pinned.old.iter().map(|old| read(old, (&self.ticks, idle, now), kept)).collect()
    }

    /// Removes them.
    pub fn forget_left(&mut self) {
        if let Some(pinned) = &mut self.pinned {
            pinned.old.drain(..).for_each(|old| old.remove());
        }
    }
}

fn read(
    old: &Old,
    (ticks, idle, now): (&Ticks, std::time::Duration, Time),
    kept: Option<(u32, &Kept)>,
) -> Result<Snapshot, KernelError> {
    let open = |map: &'static str| {
        let opened = MapData::from_pin(old.map(map));
        opened.map_err(|source| KernelError::Map { map, source: Box::new(source) })
    };
    let (flows, retired, overflow) = (open("FLOWS")?, open("RETIRED")?, open("OVERFLOW")?);
    let generation = MapInfo::from_pin(old.map("FLOWS")).ok().map(|info| info.id());
    let kept = kept.filter(|(of, _)| Some(*of) == generation).map(|(_, kept)| kept);
    let mut table = Table::new(idle);
    if let Some(kept) = kept {
        keep::resume(table.book_mut(), kept);
    }
    let before = kept.and_then(|kept| Ticks::from_words(kept.ticks));
    let ticks = before.as_ref().unwrap_or(ticks);
    let moment = Moment { ticks, now, tick: ticks.tick(now), horizon: u64::MAX };
    let maps = Maps { flows: &flows, retired: &retired, overflow: &overflow, seed: seed(open("SHARES")?)? };
    let mut snapshot = Snapshot::default();
    table.read(&maps, moment, &mut snapshot, &|_, _: &[Flow]| Ok(Vec::new()))?;
    snapshot.spilled.iter_mut().for_each(|spill| spill.over = true);
    Ok(snapshot)
}

/// The seed by which the tables were filled.
fn seed(shares: MapData) -> Result<[u64; 2], KernelError> {
    let refused = |source| KernelError::Map { map: "SHARES", source: Box::new(source) };
    let cells: Array<_, u64> = Array::try_from(Map::Array(shares)).map_err(refused)?;
    let read = |cell| cells.get(&cell, 0).map_err(refused);
    Ok([read(SEED_CELLS[0])?, read(SEED_CELLS[1])?])
}
