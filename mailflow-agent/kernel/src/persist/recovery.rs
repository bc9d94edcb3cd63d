//! Checkpoint of the reader, and queries and corrections of crash recovery.

use mailflow_common::{FlowCounters, FlowKey, SourceOverflowCounters, SourceOverflowKey, SupersededKey};

use super::{migrated_flows::subtract, reader_checkpoint::ReaderCheckpoint};
use crate::{
    flow_table::{
        batch,
        conservation::TrafficSum,
        element::{MapElement, from_bytes, to_bytes},
    },
    handle::{Kernel, MapOrigin},
    program::load::Loaded,
};
use mailflow_engine::flow::{Flow, SourceOverflow, SupersededFlow};

impl Kernel {
    /// Returns the checkpoint of the reader.
    pub fn checkpoint(&self) -> ReaderCheckpoint {
        let state = &self.reader.state();
        let words = |sum: &TrafficSum| [sum.up.packets, sum.up.bytes, sum.down.packets, sum.down.bytes];
        let baseline = |(key, baseline): (&FlowKey, &FlowCounters)| (to_bytes(key), to_bytes(baseline));
        ReaderCheckpoint {
            prefix: self.loaded.ipv6_prefix,
            ticks: self.ticks.words(),
            baselines: state.baselines.iter().map(baseline).collect(),
            ended: words(&state.audit.ended),
            overflow: words(state.audit.evicted_overflow()),
            migrated: state.migrated.all().cloned().collect(),
            read_generations: state.read_generations.clone(),
        }
    }

    /// Returns true if the maps still have the flow, with any number of packets.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn has_flow(&self, flow: &Flow) -> std::io::Result<bool> {
        let first = self.ticks.tick_at(flow.first);
        let found = match self.loaded.buckets.as_ref().and_then(|buckets| buckets.counters(&flow.key)) {
            None => look_up::<FlowKey, FlowCounters>(&self.loaded, "FLOWS", &flow.key)?,
            found => found,
        };
        let state = self.reader.state();
        Ok(match state.migrated.migrated_part(flow) {
            // A migrated flow without a packet in these maps has no entry; with one, it has an entry.
            Some(migrated_part) => {
                let unchanged = (migrated_part.up.packets, migrated_part.down.packets)
                    == (flow.up.packets, flow.down.packets);
                unchanged || (found.is_some() && !state.baselines.contains_key(&flow.key))
            }
            None => found.is_some_and(|found| found.first == first),
        })
    }

    /// Returns true if the superseded flow still waits to be read.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn has_superseded_flow(&self, flow: &Flow) -> std::io::Result<bool> {
        if self
            .unmigrated
            .superseded
            .iter()
            .any(|old| (old.flow.key, old.flow.first) == (flow.key, flow.first))
        {
            return Ok(true);
        }
        let key = SupersededKey { flow: flow.key, first: self.ticks.tick_at(flow.first) };
        Ok(look_up::<SupersededKey, FlowCounters>(&self.loaded, "SUPERSEDED", &key)?.is_some())
    }

    /// Accounts for a flow that an earlier agent evicted.
    pub fn account_evicted(&mut self, flow: &Flow) {
        let reused = self.map_origin == MapOrigin::Reused;
        let state = self.reader.state_mut();
        let migrated_part = state.migrated.remove(flow);
        // Counts of older maps are in no total of these maps.
        if reused {
            state.baselines.remove(&flow.key);
            state.audit.add_ended(
                &migrated_part.map_or_else(|| flow.clone(), |migrated_part| subtract(flow, &migrated_part)),
            );
        }
    }

    /// Accounts for a superseded flow that an earlier agent deleted, with the counts of its entry in the
    /// journal.
    pub fn account_superseded(&mut self, SupersededFlow { flow, .. }: &SupersededFlow, sums: &[u8]) {
        let reused = self.map_origin == MapOrigin::Reused;
        let state = self.reader.state_mut();
        let migrated_part = state.migrated.remove(flow);
        if !reused {
            return;
        }
        state.audit.add_ended(
            &migrated_part.map_or_else(|| flow.clone(), |migrated_part| subtract(flow, &migrated_part)),
        );
        if let Some(baseline) = from_bytes(sums) {
            state.baselines.insert(flow.key, baseline);
        }
    }

    /// Accounts for a source that an earlier agent deleted.
    pub fn account_evicted_source(&mut self, source: &SourceOverflow) {
        if self.map_origin == MapOrigin::Reused {
            self.reader.state_mut().audit.add_ended_source(source);
        }
    }

    /// Returns true if the source is still in the overflow map.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn has_source(&self, key: &SourceOverflowKey) -> std::io::Result<bool> {
        if self.unmigrated.overflow.iter().any(|old| old.key == *key) {
            return Ok(true);
        }
        Ok(look_up::<SourceOverflowKey, SourceOverflowCounters>(&self.loaded, "OVERFLOW", key)?.is_some())
    }
}

fn look_up<K: MapElement, V: MapElement>(
    loaded: &Loaded,
    map: &'static str,
    key: &K,
) -> std::io::Result<Option<V>> {
    let map = loaded.hash(map).map_err(std::io::Error::other)?;
    batch::lookup(map.fd(), key)
}
