//! What the agent knows of the tables beside what is in them, for the agent after it.

use mailflow_common::{FlowCounters, FlowKey, RetiredKey, SpillCounters, SpillKey};

use super::{
    Begun, Kernel,
    batch::{self, Element},
    carried::less,
    held::Sum,
    load::Loaded,
    table::Book,
};
use crate::options::SilenceLimits;
use mailflow_engine::{
    event::Gain,
    flow::{Finished, Flow},
    spill::Spill,
};

/// What belongs to pinned tables, and is valid for them and this boot of the machine alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The IPv6 prefix that makes a source.
    pub prefix: u8,
    /// How ticks lie on the clock.
    pub ticks: [u64; 3],
    /// Of tuples that were used again: key, and the entry's sums when the flow before was finished.
    pub bases: Vec<(Vec<u8>, Vec<u8>)>,
    /// Packets and bytes, up and down, of flows that were finished or taken out ...
    pub retired: [u64; 4],
    /// ... and of sources whose overflow was taken out.
    pub overflow: [u64; 4],
    /// Flows that were open in tables before these, as they were then.
    pub carried: Vec<Flow>,
    /// Those tables that were read, as far as they may still be there.
    pub read: Vec<u32>,
}

impl Kernel {
    /// What the agent after this one must know of the tables.
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

    /// Goes on where another agent stopped. Before anything is read.
    pub(super) fn resume(&mut self, kept: &Kept) {
        let limits = self.table.limits();
        resume(self.table.book_mut(), kept, &limits);
    }

    /// Whether the tables still hold the flow, with any number of packets.
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
            // Without a packet here it is where it was carried to; with one, in its entry.
            Some(part) => {
                let same = (part.up.packets, part.down.packets) == (flow.up.packets, flow.down.packets);
                same || (found.is_some() && !book.bases.contains_key(&flow.key))
            }
            None => found.is_some_and(|found| found.first == first),
        })
    }

    /// Whether the finished flow still waits to be read.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn holds_finished(&self, flow: &Flow) -> std::io::Result<bool> {
        if self.left.finished.iter().any(|left| (left.flow.key, left.flow.first) == (flow.key, flow.first)) {
            return Ok(true);
        }
        let key = RetiredKey { flow: flow.key, first: self.ticks.tick(flow.first) };
        Ok(look_up::<RetiredKey, FlowCounters>(&self.loaded, "RETIRED", &key)?.is_some())
    }

    /// Books a flow that the agent before took out of the table.
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

    /// Books a finished flow that the agent before took out, with its entry's sums as the journal has them.
    pub fn book_finished(&mut self, Finished { flow, .. }: &Finished, sums: &[u8]) {
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

    /// Books a source whose overflow the agent before took out.
    pub fn book_spilled(&mut self, spill: &Spill) {
        if self.begun == Begun::Resumed {
            self.table.book_mut().held.retire_spill(spill);
        }
    }

    /// Whether the source's overflow is still in its table.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn holds_spill(&self, key: &SpillKey) -> std::io::Result<bool> {
        if self.left.spilled.iter().any(|left| left.key == *key) {
            return Ok(true);
        }
        Ok(look_up::<SpillKey, SpillCounters>(&self.loaded, "OVERFLOW", key)?.is_some())
    }
}

/// Goes on with a book where another agent stopped.
pub(super) fn resume(book: &mut Book, kept: &Kept, limits: &SilenceLimits) {
    let sum = |[packets, bytes, down_packets, down_bytes]: [u64; 4]| Sum {
        up: Gain { packets, bytes },
        down: Gain { packets: down_packets, bytes: down_bytes },
    };
    let bases = kept.bases.iter().filter_map(|(key, base)| Some((unpack(key)?, unpack(base)?)));
    book.bases = bases.collect();
    book.held.resume(sum(kept.retired), sum(kept.overflow));
    for flow in &kept.carried {
        book.carried.add(flow.clone(), limits);
    }
    book.read.clone_from(&kept.read);
}

fn look_up<K: Element, V: Element>(
    loaded: &Loaded,
    map: &'static str,
    key: &K,
) -> std::io::Result<Option<V>> {
    let map = loaded.hash(map).map_err(std::io::Error::other)?;
    batch::get(map.fd(), key)
}

/// The bytes of a key or value.
pub(super) fn pack<E: Element>(element: &E) -> Vec<u8> {
    batch::bytes(std::slice::from_ref(element)).to_vec()
}

/// A key or value from its bytes; `None` where they are not as many.
fn unpack<E: Element + Default>(bytes: &[u8]) -> Option<E> {
    let mut element = E::default();
    let room = batch::bytes_mut(std::slice::from_mut(&mut element));
    (room.len() == bytes.len()).then(|| room.copy_from_slice(bytes))?;
    Some(element)
}

/// A flow's key as bytes, for files.
pub fn key_bytes(key: &FlowKey) -> &[u8] {
    batch::bytes(std::slice::from_ref(key))
}

/// A flow's key from its bytes.
pub fn unpack_key(bytes: &[u8]) -> Option<FlowKey> {
    unpack(bytes)
}

/// An overflowing source's key as bytes, for files.
pub fn pack_spill_key(key: &SpillKey) -> Vec<u8> {
    pack(key)
}

/// An overflowing source's key from its bytes.
pub fn unpack_spill_key(bytes: &[u8]) -> Option<SpillKey> {
    unpack(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_from_bytes() {
        let key = FlowKey { client_port: 7, server_port: 25, ..FlowKey::default() };
        assert_eq!(unpack_key(key_bytes(&key)), Some(key));
        assert_eq!(unpack_key(&[0; 39]), None);
    }
}
