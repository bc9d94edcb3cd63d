//! The records that contributed to what the rules hold, for as long as there is room.
//!
//! Rules remember numbers; the flows behind them are kept here, the newest of all subjects together, so
//! that a million sources that raise no alert cost nothing but this bound.

use super::{flow::FlowRecord, time::Time};

/// Most flows shown with an alert, and kept for a subject.
pub(super) const SHOWN: usize = 20;

/// Most records kept, about 220 B each.
pub(super) const KEPT: usize = 1 << 17;

/// Names a record that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(u32);

/// The newest records.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// A ring, once it is full.
    records: Vec<FlowRecord>,
    /// The times of the records, which are asked for far more often than the rest of them.
    times: Vec<Time>,
    /// The handle that the next record gets.
    next: u32,
    /// Records that others took the places of, since the start.
    dropped: u64,
}

/// A record that is kept once somebody needs it, however many do.
pub(super) struct Exhibit<'a> {
    record: &'a FlowRecord,
    handle: Option<Handle>,
}

impl<'a> Exhibit<'a> {
    pub(super) fn new(record: &'a FlowRecord) -> Self {
        Self { record, handle: None }
    }

    /// Its handle.
    pub(super) fn handle(&mut self, evidence: &mut Evidence) -> Handle {
        *self.handle.get_or_insert_with(|| evidence.keep(self.record))
    }
}

impl Evidence {
    /// Keeps a record, in the place of the oldest where there is no other.
    pub(super) fn keep(&mut self, record: &FlowRecord) -> Handle {
        let handle = Handle(self.next);
        let place = self.next as usize % KEPT;
        match (self.records.get_mut(place), self.times.get_mut(place)) {
            (Some(oldest), Some(time)) => {
                oldest.clone_from(record);
                *time = record.time();
                self.dropped += 1;
            }
            _ => {
                self.records.push(record.clone());
                self.times.push(record.time());
            }
        }
        self.next = self.next.wrapping_add(1);
        handle
    }

    /// The record, if it is still there.
    pub(super) fn get(&self, handle: Handle) -> Option<&FlowRecord> {
        self.records.get(self.place(handle)?)
    }

    /// Its event time, if it is still there.
    pub(super) fn time(&self, handle: Handle) -> Option<Time> {
        self.times.get(self.place(handle)?).copied()
    }

    /// Records kept.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Records that others took the places of, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn place(&self, handle: Handle) -> Option<usize> {
        let age = self.next.wrapping_sub(handle.0) as usize;
        (1..=self.records.len()).contains(&age).then_some(handle.0 as usize % KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    #[test]
    fn the_newest_are_kept() {
        let mut evidence = Evidence::default();
        let first = fixture::record(fixture::at(1));
        let handle = evidence.keep(&first);
        assert_eq!(evidence.get(handle), Some(&*first));
        let other = fixture::record(fixture::at(2));
        for _ in 1..KEPT {
            evidence.keep(&other);
        }
        assert_eq!(evidence.get(handle), Some(&*first), "just so");
        let last = evidence.keep(&other);
        assert_eq!((evidence.get(handle), evidence.get(last)), (None, Some(&*other)));
        assert_eq!((evidence.len(), evidence.dropped()), (KEPT, 1));
        assert_eq!((evidence.time(handle), evidence.time(last)), (None, Some(fixture::at(2))));
        assert_eq!(evidence.get(Handle(evidence.next)), None, "not kept yet");
    }
}
