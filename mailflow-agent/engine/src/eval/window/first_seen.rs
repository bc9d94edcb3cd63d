//! First-seen window: endpoints of a group with their first and last event, to count new endpoints.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use super::{
    distinct::EndpointBytes,
    entries::{heap, last_run},
    spec::WindowSpec,
    value::Value,
};
use crate::time::Time;

/// Most endpoints of one group. Further endpoints are not stored, and do not count as new.
const MAX_ENDPOINTS: usize = 1_024;

/// Endpoints with the times of their first and last event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FirstSeenWindow {
    entries: ThinVec<FirstSeenEntry>,
    /// True if an endpoint found no room.
    is_full: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct FirstSeenEntry {
    endpoint: EndpointBytes,
    /// Time from which the endpoint is new; `Time::ZERO` if it never was new.
    first: Time,
    last: Time,
}

impl FirstSeenWindow {
    /// Adds an event with `endpoint`. An endpoint without an event for `horizon` is new again. No endpoint is new
    /// before `learning_ends`.
    pub(super) fn add(
        &mut self,
        window_spec: &WindowSpec,
        (horizon, learning_ends): (Duration, Time),
        clock: Time,
        time: Time,
        endpoint: EndpointBytes,
    ) {
        self.prune(window_spec, horizon, clock);
        let new = if time < learning_ends { Time::ZERO } else { time };
        let has_room = self.entries.len() < MAX_ENDPOINTS;
        match self.entries.iter_mut().find(|entry| entry.endpoint == endpoint) {
            Some(entry) if time >= entry.last + horizon => (entry.first, entry.last) = (new, time),
            Some(entry) => {
                entry.last = entry.last.max(time);
                // A late record may be the first event of the endpoint.
                if entry.first > time && entry.first < time + horizon {
                    entry.first = new;
                }
            }
            None if has_room => self.entries.push(FirstSeenEntry { endpoint, first: new, last: time }),
            None => self.is_full = true,
        }
    }

    /// Removes endpoints whose last event is more than `horizon` before any record that can still arrive.
    pub(super) fn prune(&mut self, window_spec: &WindowSpec, horizon: Duration, clock: Time) {
        self.entries.retain(|entry| entry.last + horizon + window_spec.lateness() > clock);
        self.is_full &= !self.entries.is_empty();
    }

    /// Returns the number of endpoints that were new in the window that ends at `time`.
    pub(super) fn value(&self, window_spec: &WindowSpec, time: Time) -> Value {
        let new = self.entries.iter().map(|entry| entry.first);
        let count = new.filter(|first| {
            *first > Time::ZERO && *first <= time && window_spec.contains_event(*first, time)
        });
        let count = count.count() as u64;
        if self.is_full { Value::AtLeast(count) } else { Value::Exactly(count) }
    }

    /// Returns the end of the last period with at least `threshold` new endpoints, at most `limit`. The end may
    /// lie in the future.
    pub(super) fn holds_until(&self, window_spec: &WindowSpec, threshold: u64, limit: Time) -> Option<Time> {
        let mut firsts: Vec<Time> = self.entries.iter().map(|entry| entry.first).collect();
        firsts.retain(|first| *first > Time::ZERO);
        firsts.sort_unstable();
        last_run(&firsts, |first| *first, window_spec, threshold, limit)
    }

    /// Returns the time of the newest event.
    pub(super) fn newest(&self) -> Option<Time> {
        self.entries.iter().map(|entry| entry.last).max()
    }

    /// Returns the times at which endpoints were new, and the newest event.
    pub(super) fn event_times(&self) -> impl Iterator<Item = Time> {
        self.entries.iter().map(|entry| entry.first).chain(self.newest())
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
    use super::*;
    use crate::rule::{Window, WindowKind};

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(hours: u64) -> Time {
        Time::from_nanos(hours * 3_600 * 1_000_000_000)
    }

    fn day() -> WindowSpec {
        WindowSpec::new(Window { length: DAY, kind: WindowKind::Sliding }, 1, Duration::from_secs(300))
    }

    fn add(window: &mut FirstSeenWindow, learning_ends: u64, hours: u64, endpoint: u8) {
        window.add(&day(), (30 * DAY, at(learning_ends)), at(hours), at(hours), [endpoint; 16]);
    }

    #[test]
    fn new_endpoints_count_for_one_window() {
        let mut window = FirstSeenWindow::default();
        for (hours, endpoint) in [(1, 1), (2, 1), (10, 2), (30, 1)] {
            add(&mut window, 0, hours, endpoint);
        }
        assert_eq!(window.value(&day(), at(10)), Value::Exactly(2));
        assert_eq!(window.value(&day(), at(30)), Value::Exactly(1), "1 is known since hour 1");
        assert_eq!(window.holds_until(&day(), 1, Time::END), Some(at(34)));
        assert_eq!(window.holds_until(&day(), 2, Time::END), Some(at(25)));
    }

    #[test]
    fn an_endpoint_is_new_again_after_the_horizon() {
        let mut window = FirstSeenWindow::default();
        add(&mut window, 0, 1, 1);
        add(&mut window, 0, 1 + 30 * 24, 1);
        assert_eq!(window.value(&day(), at(1 + 30 * 24)), Value::Exactly(1));
        add(&mut window, 0, 1 + 59 * 24, 1);
        assert_eq!(window.value(&day(), at(1 + 59 * 24)), Value::Exactly(0));
    }

    #[test]
    fn a_late_record_is_compared_with_earlier_events() {
        let mut window = FirstSeenWindow::default();
        add(&mut window, 0, 1, 1);
        let (hour, late) = (at(1), Duration::from_secs(200));
        let back = hour + 30 * DAY - Duration::from_secs(100);
        window.add(&day(), (30 * DAY, Time::ZERO), back + late, back, [1; 16]);
        assert_eq!(window.value(&day(), back), Value::Exactly(0), "seen within 30 days, reported after them");
    }

    #[test]
    fn a_late_record_moves_the_first_event() {
        let mut window = FirstSeenWindow::default();
        add(&mut window, 0, 10, 1);
        let earlier = at(10) - Duration::from_secs(100);
        window.add(&day(), (30 * DAY, Time::ZERO), at(10), earlier, [1; 16]);
        assert_eq!(window.value(&day(), earlier), Value::Exactly(1));
        assert_eq!(window.holds_until(&day(), 1, Time::END), Some(earlier + DAY));
    }

    #[test]
    fn no_endpoint_is_new_while_learning() {
        let mut window = FirstSeenWindow::default();
        add(&mut window, 24, 1, 1);
        add(&mut window, 24, 30, 1);
        assert_eq!(window.value(&day(), at(30)), Value::Exactly(0));
        add(&mut window, 24, 31, 2);
        assert_eq!(window.value(&day(), at(31)), Value::Exactly(1));
    }

    #[test]
    fn memory_is_bounded_and_the_value_says_so() {
        let mut window = FirstSeenWindow::default();
        for endpoint in 0..2_000u16 {
            let mut mark = [0; 16];
            mark[..2].copy_from_slice(&endpoint.to_be_bytes());
            window.add(&day(), (30 * DAY, Time::ZERO), at(1), at(1), mark);
        }
        assert_eq!((window.len(), window.value(&day(), at(1))), (MAX_ENDPOINTS, Value::AtLeast(1_024)));
    }
}
