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
const LANS: &str = "LAN_INTERFACES";

/// Interfaces in the map.
#[derive(Default)]
pub(super) struct Lans(BTreeSet<u32>);

impl Lans {
    /// Writes these interfaces into the map. If the kernel refuses, the error is logged and the next call
    /// tries again; a few packets may be counted twice until then.
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
