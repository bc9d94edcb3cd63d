//! Count window: exact times of events, in bounded memory.
//!
//! Let v(t) be the number of events whose time e lies in (t - W, t]. The condition holds at t if and only if v(t) is
//! K or more. An incident starts at the first event time at which the condition holds. It ends when v has stayed
//! below R (`resolve_below`, at most K) for long enough.
//!
//! **Out of order.** The event time of an idle flow is its last packet, but its record arrives up to the idle
//! timeout later. So event times are kept sorted, and every query is about event time. A late event finds the K - 1
//! others that lie in one window with it, anywhere in the past. The order of arrival does not change which sets of
//! records fire.
//!
//! **Removal.** Let L be the largest lateness of a record (the longest timeout), c the engine's clock, and n =
//! ceil(L / W). The window removes:
//!
//! 1. Events at or before c - L - W. A record that still arrives has e > c - L, and any window that contains it
//!    begins after c - L - W.
//! 2. The oldest events beyond C = (n + 2)(K - 1) + 1. The C + 1 events at that time lie within W + L, that is
//!    within n + 1 windows, so one window holds K of them.
//!    - During an incident: those K keep the incident active until at least W after the removed event e0. So e0 is in no window after the end of the incident, and cannot prolong it.
//!    - Without an incident: no window that ends after the end x of the last incident holds K events. So at most (n + 1)(K - 1) of the kept events lie after x. A window that ends after x and reaches K with a late event needs only the K - 1 newest of the others. C covers both.
//!
//! Tumbling windows are [mW, (m + 1)W). W + L may touch n + 2 of them, hence one more (K - 1).
//!
//! If thresholds differ by group, K is the highest. A count that may lack removed events is reported as "at least";
//! it is then at least K.

use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use super::{
    entries::{growth, heap, last_run, remove_oldest, run_length},
    spec::WindowSpec,
    value::Value,
};
use crate::time::Time;

/// Event times of a count term.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CountWindow {
    /// Event times, ascending.
    events: ThinVec<Time>,
    /// Newest event that was removed for capacity; `Time::ZERO` if none was.
    forgotten: Time,
}

impl CountWindow {
    /// Adds an event that arrives at `clock`.
    pub(super) fn add(&mut self, window_spec: &WindowSpec, clock: Time, time: Time) {
        self.prune(window_spec, clock);
        if self.events.len() == self.events.capacity() {
            // Most groups have few events: the vector grows from one, not from its default of four.
            self.events.reserve_exact(growth(self.events.len()));
        }
        let position = self.events.partition_point(|event| *event <= time);
        self.events.insert(position, time);
    }

    /// Removes the oldest events beyond the capacity.
    pub(super) fn trim(&mut self, window_spec: &WindowSpec) {
        if self.events.len() > window_spec.capacity() {
            let excess = self.events.len() - window_spec.capacity();
            if let Some(last) = self.events.get(excess - 1) {
                self.forgotten = self.forgotten.max(*last);
            }
            self.events.drain(..excess);
        }
    }

    /// Removes events that have expired at `clock`.
    pub(super) fn prune(&mut self, window_spec: &WindowSpec, clock: Time) {
        if self.events.first().is_none_or(|event| window_spec.is_relevant(*event, clock)) {
            return;
        }
        let expired = self.events.partition_point(|event| !window_spec.is_relevant(*event, clock));
        remove_oldest(&mut self.events, expired);
    }

    /// Returns the first event time after `after` at which a window holds `threshold` events.
    pub(super) fn reached_at(
        &self,
        window_spec: &WindowSpec,
        threshold: u64,
        after: Option<Time>,
    ) -> Option<Time> {
        self.events.windows(run_length(threshold)).find_map(|run| {
            let (oldest, newest) = (*run.first()?, *run.last()?);
            (after.is_none_or(|after| newest > after) && window_spec.contains_event(oldest, newest))
                .then_some(newest)
        })
    }

    /// Returns the end of the last period with at least `threshold` events, at most `limit`. The end may lie in
    /// the future.
    pub(super) fn holds_until(&self, window_spec: &WindowSpec, threshold: u64, limit: Time) -> Option<Time> {
        last_run(&self.events, |event| *event, window_spec, threshold, limit)
    }

    /// Returns the number of events in the window that ends at `time`.
    pub(super) fn value(&self, window_spec: &WindowSpec, time: Time) -> Value {
        let end_index = self.events.partition_point(|event| *event <= time);
        let start_index =
            self.events[..end_index].partition_point(|event| !window_spec.contains_event(*event, time));
        let count = (end_index - start_index) as u64;
        let has_forgotten = self.forgotten > Time::ZERO && window_spec.contains_event(self.forgotten, time);
        if has_forgotten { Value::AtLeast(count) } else { Value::Exactly(count) }
    }

    /// Returns the event times, newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = Time> {
        self.events.iter().rev().copied()
    }

    /// Returns the bytes of the heap allocation.
    pub(super) fn heap(&self) -> usize {
        heap(&self.events)
    }

    /// Returns the number of events.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rule::{Window, WindowKind};

    const LATE: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    fn window_spec(kind: WindowKind, threshold: u64) -> WindowSpec {
        WindowSpec::new(Window { length: Duration::from_secs(3_600), kind }, threshold, LATE)
    }

    fn times(window_spec: &WindowSpec, events: impl IntoIterator<Item = u64>) -> CountWindow {
        let (mut times, mut clock) = (CountWindow::default(), Time::ZERO);
        for event in events {
            clock = clock.max(at(event));
            times.add(window_spec, clock, at(event));
            times.trim(window_spec);
        }
        times
    }

    #[test]
    fn the_sliding_window_excludes_its_start() {
        let three = window_spec(WindowKind::Sliding, 3);
        assert_eq!(times(&three, [100, 200, 3_699]).reached_at(&three, 3, None), Some(at(3_699)));
        assert_eq!(times(&three, [100, 200, 3_700]).reached_at(&three, 3, None), None);
    }

    #[test]
    fn the_tumbling_window_begins_at_multiples_of_its_length() {
        let three = window_spec(WindowKind::Tumbling, 3);
        assert_eq!(times(&three, [3_600, 5_000, 7_199]).reached_at(&three, 3, None), Some(at(7_199)));
        assert_eq!(times(&three, [3_599, 3_600, 7_199]).reached_at(&three, 3, None), None);
        assert_eq!(times(&three, [3_600, 5_000, 7_199]).holds_until(&three, 3, Time::END), Some(at(7_200)));
    }

    #[test]
    fn a_late_event_counts_at_its_event_time() {
        let three = window_spec(WindowKind::Sliding, 3);
        for order in [[100, 150, 390], [390, 150, 100], [150, 390, 100]] {
            assert_eq!(times(&three, order).reached_at(&three, 3, None), Some(at(390)), "{order:?}");
        }
    }

    #[test]
    fn events_of_an_incident_do_not_start_the_next() {
        let two = window_spec(WindowKind::Sliding, 2);
        let times = times(&two, [100, 101, 5_000]);
        assert_eq!(times.reached_at(&two, 2, Some(at(200))), None);
        assert_eq!(times.reached_at(&two, 2, None), None, "100 and 101 have expired");
    }

    #[test]
    fn memory_is_bounded_and_the_value_says_so() {
        let ten = window_spec(WindowKind::Sliding, 10);
        assert_eq!(ten.capacity(), 28);
        let times = times(&ten, 0..1_000);
        assert_eq!(times.len(), ten.capacity());
        assert_eq!(times.value(&ten, at(999)), Value::AtLeast(28));
        assert_eq!(
            times.value(&ten, at(3_599 + 971)),
            Value::AtLeast(28),
            "the last forgotten one leaves at 4571"
        );
        assert_eq!(times.value(&ten, at(3_600 + 971)), Value::Exactly(28));
        assert_eq!(times.value(&ten, at(3_600 + 972)), Value::Exactly(27));
        assert_eq!(times.holds_until(&ten, 10, Time::END), Some(at(990 + 3_600)));
    }

    #[test]
    fn a_source_with_one_flow_costs_one_event() {
        let ten = window_spec(WindowKind::Sliding, 10);
        let mut one = times(&ten, [7]);
        assert_eq!(one.events.capacity(), 1);
        assert_eq!(size_of::<CountWindow>(), 16);
        one.prune(&ten, at(7) + ten.retention());
        assert_eq!((one.len(), one.events.capacity()), (0, 0));
    }

    #[test]
    fn a_window_shorter_than_the_lateness_keeps_more() {
        let window = Window { length: Duration::from_secs(60), kind: WindowKind::Sliding };
        assert_eq!(WindowSpec::new(window, 10, LATE).capacity(), 9 * 7 + 1);
    }
}
