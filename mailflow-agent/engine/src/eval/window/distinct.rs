//! Distinct ends of flows: the most recent ones.
//!
//! Of each end only its last event is kept, and of the ends only the K most recent. Whether the window
//! that ends with the newest event holds K distinct ends follows from those. In a window further
//! in the past an end that was seen again since does not count: the number is never over.

use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use super::{
    entries::{forget, heap, last_run},
    spec::WindowSpec,
    value::Value,
};
use crate::time::Time;

/// An end as bytes: an address (IPv4 mapped to IPv6) or a port.
pub(crate) type EndpointBytes = [u8; 16];

/// Distinct ends with their last events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DistinctWindow {
    /// Ascending in time.
    entries: ThinVec<(Time, EndpointBytes)>,
    /// The newest event of an end forgotten for want of room.
    forgotten: Time,
}

impl DistinctWindow {
    /// Adds an event with `end`; `need` (K) are told apart.
    pub(super) fn add(&mut self, shape: &WindowSpec, need: u64, clock: Time, time: Time, end: EndpointBytes) {
        self.prune(shape, clock);
        if let Some(place) = self.entries.iter().position(|(_, known)| *known == end) {
            if self.entries.get(place).is_some_and(|(last, _)| *last >= time) {
                return;
            }
            self.entries.remove(place);
        }
        let place = self.entries.partition_point(|(last, _)| *last <= time);
        self.entries.insert(place, (time, end));
        while self.entries.len() as u64 > need.max(1) {
            let (last, _) = self.entries.remove(0);
            self.forgotten = self.forgotten.max(last);
        }
    }

    /// Forgets what cannot matter at `clock` any more.
    pub(super) fn prune(&mut self, shape: &WindowSpec, clock: Time) {
        if self.entries.first().is_none_or(|(last, _)| shape.matters(*last, clock)) {
            return;
        }
        let old = self.entries.partition_point(|(last, _)| !shape.matters(*last, clock));
        forget(&mut self.entries, old);
    }

    /// How many distinct ends the window that ends at `time` holds.
    pub(super) fn value(&self, shape: &WindowSpec, time: Time) -> Value {
        let inside = |last: &Time| *last <= time && shape.reaches(*last, time);
        let count = self.entries.iter().filter(|(last, _)| inside(last)).count() as u64;
        let lost = self.forgotten > Time::ZERO && inside(&self.forgotten);
        if lost { Value::AtLeast(count) } else { Value::Exactly(count) }
    }

    /// Until when, `before` at the latest, there last were, or will have been, `hold` of them.
    pub(super) fn until(&self, shape: &WindowSpec, hold: u64, before: Time) -> Option<Time> {
        last_run(&self.entries, |(last, _)| *last, shape, hold, before)
    }

    /// Event times, the newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = Time> {
        self.entries.iter().rev().map(|(last, _)| *last)
    }

    /// Bytes allocated.
    pub(super) fn heap(&self) -> usize {
        heap(&self.entries)
    }

    /// Ends held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rule::{Window, WindowKind};

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    fn hour() -> WindowSpec {
        let window = Window { length: Duration::from_secs(3_600), kind: WindowKind::Sliding };
        WindowSpec::new(window, 3, Duration::from_secs(300))
    }

    fn ends(events: &[(u64, u8)]) -> DistinctWindow {
        let mut ends = DistinctWindow::default();
        for (second, end) in events {
            ends.add(&hour(), 3, at(*second), at(*second), [*end; 16]);
        }
        ends
    }

    #[test]
    fn each_end_counts_once() {
        let ends = ends(&[(100, 1), (200, 2), (300, 1), (400, 1)]);
        assert_eq!(ends.value(&hour(), at(400)), Value::Exactly(2));
        assert_eq!(ends.until(&hour(), 2, Time::END), Some(at(3_800)), "until the one at 200 leaves");
        assert_eq!(ends.value(&hour(), at(3_800)), Value::Exactly(1));
        assert_eq!(ends.until(&hour(), 3, Time::END), None);
    }

    #[test]
    fn what_is_beyond_the_threshold_is_at_least() {
        let many: Vec<_> = (1..=50u8).map(|end| (u64::from(end), end)).collect();
        let ends = ends(&many);
        assert_eq!((ends.len(), ends.value(&hour(), at(50))), (3, Value::AtLeast(3)));
        assert_eq!(ends.value(&hour(), at(3_600 + 48)), Value::Exactly(2));
    }

    #[test]
    fn a_late_event_does_not_make_an_end_older() {
        let mut ends = ends(&[(100, 1), (400, 1)]);
        ends.add(&hour(), 3, at(400), at(150), [1; 16]);
        assert_eq!((ends.len(), ends.newest_first().next()), (1, Some(at(400))));
    }
}
