//! Interfaces in the `lan` role, in a map for the program. With a watched port at either end, a packet
//! between two of them could be counted at both. If its flow has no entry, which would tell, the program uses
//! this map.

use std::collections::BTreeSet;

use aya::maps::HashMap;
use tracing::warn;

use crate::{
    error::KernelError,
    program::load::{Loaded, map_error},
};

/// Name of the map.
const LAN_INTERFACES_MAP: &str = "LAN_INTERFACES";

/// Interfaces in the map.
#[derive(Default)]
pub(super) struct LanInterfaces(BTreeSet<u32>);

impl LanInterfaces {
    /// Writes these interfaces into the map. If the kernel refuses, the error is logged and the next call
    /// tries again; a few packets may be counted twice until then.
    pub(super) fn sync(&mut self, loaded: &mut Loaded, wanted: &BTreeSet<u32>) {
        if self.0 == *wanted {
            return;
        }
        if let Err(error) = self.write(loaded, wanted) {
            warn!(%error, "the program does not know which interfaces are watched");
        }
    }

    fn write(&mut self, loaded: &mut Loaded, wanted: &BTreeSet<u32>) -> Result<(), KernelError> {
        let map = loaded.map_mut(LAN_INTERFACES_MAP)?;
        let mut map: HashMap<_, u32, u32> = HashMap::try_from(map).map_err(map_error(LAN_INTERFACES_MAP))?;
        for removed in self.0.difference(wanted).copied().collect::<Vec<_>>() {
            map.remove(&removed).map_err(map_error(LAN_INTERFACES_MAP))?;
            self.0.remove(&removed);
        }
        for added in wanted - &self.0 {
            map.insert(added, 1, 0).map_err(map_error(LAN_INTERFACES_MAP))?;
            self.0.insert(added);
        }
        Ok(())
    }
}
