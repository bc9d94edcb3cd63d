//! What the program is told of the interfaces in the `lan` role. With a watched port at either end, a packet from
//! one of them to another could be counted at both; where its flow has no place in the table, which would
//! tell, the program goes by these numbers.

use std::collections::BTreeSet;

use aya::maps::HashMap;
use tracing::warn;

use crate::{
    error::KernelError,
    program::load::{Loaded, map_error},
};

/// The map.
const LANS: &str = "LAN_INTERFACES";

/// Those that stand in the map.
#[derive(Default)]
pub(super) struct Lans(BTreeSet<u32>);

impl Lans {
    /// Makes them these. Without it a few packets are counted twice at worst: what the kernel refuses is logged, and
    /// tried again the next time.
    pub(super) fn become_these(&mut self, loaded: &mut Loaded, wanted: &BTreeSet<u32>) {
        if self.0 == *wanted {
            return;
        }
        if let Err(error) = self.write(loaded, wanted) {
            warn!(%error, "the program does not know which interfaces are watched");
        }
    }

    fn write(&mut self, loaded: &mut Loaded, wanted: &BTreeSet<u32>) -> Result<(), KernelError> {
        let map = loaded.map_mut(LANS)?;
        let mut map: HashMap<_, u32, u32> = HashMap::try_from(map).map_err(map_error(LANS))?;
        for gone in self.0.difference(wanted).copied().collect::<Vec<_>>() {
            map.remove(&gone).map_err(map_error(LANS))?;
            self.0.remove(&gone);
        }
        for new in wanted - &self.0 {
            map.insert(new, 1, 0).map_err(map_error(LANS))?;
            self.0.insert(new);
        }
        Ok(())
    }
}
