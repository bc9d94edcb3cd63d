//! The records that contributed to what the rules hold, for as long as there is room.
//!
//! Rules remember numbers; the flows behind them are kept here, the newest of all subjects together, so
//! that a million sources that raise no alert cost nothing but this bound.

use std::sync::Arc;

use super::flow::FlowRecord;

/// Most flows shown with an alert, and kept for a subject.
pub(super) const SHOWN: usize = 20;

/// Most records kept, about 280 B each.
pub(super) const KEPT: usize = 1 << 17;

/// Names a record that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(u32);

/// The newest records.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// A ring, once it is full.
    records: Vec<Arc<FlowRecord>>,
    /// The handle that the next record gets.
    next: u32,
}

impl Evidence {
    /// Keeps a record, in the place of the oldest where there is no other.
    pub(super) fn keep(&mut self, record: &Arc<FlowRecord>) -> Handle {
        let handle = Handle(self.next);
        let place = self.next as usize % KEPT;
        match self.records.get_mut(place) {
            Some(oldest) => *oldest = Arc::clone(record),
            None => self.records.push(Arc::clone(record)),
        }
        self.next = self.next.wrapping_add(1);
        handle
    }

    /// The record, if it is still there.
    pub(super) fn get(&self, handle: Handle) -> Option<&Arc<FlowRecord>> {
        let age = self.next.wrapping_sub(handle.0) as usize;
        if (1..=self.records.len()).contains(&age) {
            self.records.get(handle.0 as usize % KEPT)
        } else {
            None
        }
    }

    /// Records kept.
    pub(super) fn len(&self) -> usize {
        self.records.len()
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
        assert_eq!(evidence.get(handle), Some(&first));
        let other = fixture::record(fixture::at(2));
        for _ in 1..KEPT {
            evidence.keep(&other);
        }
        assert_eq!(evidence.get(handle), Some(&first), "just so");
        let last = evidence.keep(&other);
        assert_eq!((evidence.get(handle), evidence.get(last)), (None, Some(&other)));
        assert_eq!(evidence.len(), KEPT);
        assert_eq!(evidence.get(Handle(evidence.next)), None, "not kept yet");
    }
}
