//! Distinct window: the most recent distinct endpoints.
//!
//! The window keeps the last event of each endpoint, and only the K most recent endpoints. These decide exactly if
//! the window that ends at the newest event holds K distinct endpoints. A window further in the past does not count
//! an endpoint that has a later event, so its number may be too low, but is never too high.

use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use super::{
    entries::{heap, last_run, remove_oldest},
    spec::WindowSpec,
    value::Value,
};
use crate::time::Time;

/// Endpoint as bytes: an address (IPv4 mapped to IPv6) or a port.
pub(crate) type EndpointBytes = [u8; 16];

/// Distinct endpoints with their last events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DistinctWindow {
    /// Last event and endpoint, ascending by time.
    entries: ThinVec<(Time, EndpointBytes)>,
    /// Newest event of an endpoint that was removed for capacity.
    forgotten: Time,
}

impl DistinctWindow {
    /// Adds an event with `endpoint`; keeps at most `max_threshold` (K) endpoints.
    pub(super) fn add(
        &mut self,
        window_spec: &WindowSpec,
        max_threshold: u64,
        clock: Time,
        time: Time,
        endpoint: EndpointBytes,
    ) {
        self.prune(window_spec, clock);
        if let Some(index) = self.entries.iter().position(|(_, existing)| *existing == endpoint) {
            if self.entries.get(index).is_some_and(|(last, _)| *last >= time) {
                return;
            }
            self.entries.remove(index);
        }
        let index = self.entries.partition_point(|(last, _)| *last <= time);
        self.entries.insert(index, (time, endpoint));
        while self.entries.len() as u64 > max_threshold.max(1) {
            let (last, _) = self.entries.remove(0);
            self.forgotten = self.forgotten.max(last);
        }
    }

    /// Removes endpoints that have expired at `clock`.
    pub(super) fn prune(&mut self, window_spec: &WindowSpec, clock: Time) {
        if self.entries.first().is_none_or(|(last, _)| window_spec.is_relevant(*last, clock)) {
            return;
        }
        let expired = self.entries.partition_point(|(last, _)| !window_spec.is_relevant(*last, clock));
        remove_oldest(&mut self.entries, expired);
    }

    /// Returns the number of distinct endpoints in the window that ends at `time`.
    pub(super) fn value(&self, window_spec: &WindowSpec, time: Time) -> Value {
        let inside = |last: &Time| *last <= time && window_spec.contains_event(*last, time);
        let count = self.entries.iter().filter(|(last, _)| inside(last)).count() as u64;
        let has_forgotten = self.forgotten > Time::ZERO && inside(&self.forgotten);
        if has_forgotten { Value::AtLeast(count) } else { Value::Exactly(count) }
    }

    /// Returns the end of the last period with at least `threshold` endpoints, at most `limit`. The end may lie in
    /// the future.
    pub(super) fn holds_until(&self, window_spec: &WindowSpec, threshold: u64, limit: Time) -> Option<Time> {
        last_run(&self.entries, |(last, _)| *last, window_spec, threshold, limit)
    }

    /// Returns the event times, newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = Time> {
        self.entries.iter().rev().map(|(last, _)| *last)
    }

    /// Returns the bytes of the heap allocation.
    pub(super) fn heap(&self) -> usize {
        heap(&self.entries)
    }

    /// Returns the number of endpoints.
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
        for (second, endpoint) in events {
            ends.add(&hour(), 3, at(*second), at(*second), [*endpoint; 16]);
        }
        ends
    }

    #[test]
    fn each_endpoint_counts_once() {
        let ends = ends(&[(100, 1), (200, 2), (300, 1), (400, 1)]);
        assert_eq!(ends.value(&hour(), at(400)), Value::Exactly(2));
        assert_eq!(ends.holds_until(&hour(), 2, Time::END), Some(at(3_800)), "until the one at 200 leaves");
        assert_eq!(ends.value(&hour(), at(3_800)), Value::Exactly(1));
        assert_eq!(ends.holds_until(&hour(), 3, Time::END), None);
    }

    #[test]
    fn a_number_beyond_the_threshold_is_a_lower_bound() {
        let many: Vec<_> = (1..=50u8).map(|endpoint| (u64::from(endpoint), endpoint)).collect();
        let ends = ends(&many);
        assert_eq!((ends.len(), ends.value(&hour(), at(50))), (3, Value::AtLeast(3)));
        assert_eq!(ends.value(&hour(), at(3_600 + 48)), Value::Exactly(2));
    }

    #[test]
    fn a_late_event_does_not_move_the_last_event_back() {
        let mut ends = ends(&[(100, 1), (400, 1)]);
        ends.add(&hour(), 3, at(400), at(150), [1; 16]);
        assert_eq!((ends.len(), ends.newest_first().next()), (1, Some(at(400))));
    }
}
