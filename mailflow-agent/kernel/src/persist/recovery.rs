//! Checkpoint of the reader, and queries and corrections of crash recovery.

use mailflow_common::{FlowCounters, FlowKey, SourceOverflowCounters, SourceOverflowKey, SupersededKey};

use super::{kernel_checkpoint::Kept, migrated_flows::less};
use crate::{
    flow_table::{
        batch,
        conservation::Sum,
        element::{Element, pack, unpack},
    },
    handle::{Begun, Kernel},
    program::load::Loaded,
};
use mailflow_engine::{
    flow::SourceOverflow,
    flow::{Flow, SupersededFlow},
};

impl Kernel {
    /// Returns the checkpoint of the reader.
    pub fn keep(&self) -> Kept {
        let book = &self.table.book();
        let words = |sum: &Sum| [sum.up.packets, sum.up.bytes, sum.down.packets, sum.down.bytes];
        let base = |(key, base): (&FlowKey, &FlowCounters)| (pack(key), pack(base));
        Kept {
            prefix: self.loaded.ipv6_prefix,
            ticks: self.ticks.words(),
            bases: book.bases.iter().map(base).collect(),
            retired: words(&book.held.retired),
            overflow: words(book.held.overflow_taken()),
            carried: book.carried.all().cloned().collect(),
            read: book.read.clone(),
        }
    }

    /// Returns true if the maps still have the flow, with any number of packets.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn holds(&self, flow: &Flow) -> std::io::Result<bool> {
        let first = self.ticks.tick(flow.first);
        let found = match self.loaded.sets.as_ref().and_then(|sets| sets.get(&flow.key)) {
            None => look_up::<FlowKey, FlowCounters>(&self.loaded, "FLOWS", &flow.key)?,
            found => found,
        };
        let book = self.table.book();
        Ok(match book.carried.part(flow) {
            // Without a packet in these maps the flow is among the migrated ones; with one, in its entry.
            Some(part) => {
                let same = (part.up.packets, part.down.packets) == (flow.up.packets, flow.down.packets);
                same || (found.is_some() && !book.bases.contains_key(&flow.key))
            }
            None => found.is_some_and(|found| found.first == first),
        })
    }

    /// Returns true if the superseded flow still waits to be read.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn holds_finished(&self, flow: &Flow) -> std::io::Result<bool> {
        if self.left.finished.iter().any(|left| (left.flow.key, left.flow.first) == (flow.key, flow.first)) {
            return Ok(true);
        }
        let key = SupersededKey { flow: flow.key, first: self.ticks.tick(flow.first) };
        Ok(look_up::<SupersededKey, FlowCounters>(&self.loaded, "SUPERSEDED", &key)?.is_some())
    }

    /// Accounts for a flow that an earlier agent evicted.
    pub fn book_removed(&mut self, flow: &Flow) {
        let counts = self.begun == Begun::Resumed;
        let book = self.table.book_mut();
        let part = book.carried.take(flow);
        // What tables before these held is in no number of theirs.
        if counts {
            book.bases.remove(&flow.key);
            book.held.retire(&part.map_or_else(|| flow.clone(), |part| less(flow, &part)));
        }
    }

    /// Accounts for a superseded flow that an earlier agent deleted, with the counts of its entry in the
    /// journal.
    pub fn book_finished(&mut self, SupersededFlow { flow, .. }: &SupersededFlow, sums: &[u8]) {
        let counts = self.begun == Begun::Resumed;
        let book = self.table.book_mut();
        let part = book.carried.take(flow);
        if !counts {
            return;
        }
        book.held.retire(&part.map_or_else(|| flow.clone(), |part| less(flow, &part)));
        if let Some(base) = unpack(sums) {
            book.bases.insert(flow.key, base);
        }
    }

    /// Accounts for a source that an earlier agent deleted.
    pub fn book_spilled(&mut self, spill: &SourceOverflow) {
        if self.begun == Begun::Resumed {
            self.table.book_mut().held.retire_spill(spill);
        }
    }

    /// Returns true if the source is still in the overflow map.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn holds_spill(&self, key: &SourceOverflowKey) -> std::io::Result<bool> {
        if self.left.spilled.iter().any(|left| left.key == *key) {
            return Ok(true);
        }
        Ok(look_up::<SourceOverflowKey, SourceOverflowCounters>(&self.loaded, "OVERFLOW", key)?.is_some())
    }
}

fn look_up<K: Element, V: Element>(
    loaded: &Loaded,
    map: &'static str,
    key: &K,
) -> std::io::Result<Option<V>> {
    let map = loaded.hash(map).map_err(std::io::Error::other)?;
    batch::get(map.fd(), key)
}
