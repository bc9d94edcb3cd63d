//! The window of one source under one rule: exact in event time, in bounded memory.
//!
//! With v(t) the number of qualifying flows whose event time e lies in (t - W, t], the condition
//! holds at t iff v(t) >= K. An incident begins at the first event time at which it holds, and ends
//! when v has stayed below R <= K (`resolve_below`) for long enough.
//!
//! **Out of order.** An idle flow's event time is its last packet, but its record comes up to the
//! idle timeout later. So event times are kept sorted and every question is asked of event time: a
//! late event finds the K - 1 others that lie in one window with it, wherever in the past that is.
//! Whether a set of records fires does not depend on the order in which they come.
//!
//! **What is forgotten.** Let L be the longest time a record can be late (the longest timeout), c the
//! engine's clock, and n = ceil(L / W).
//! 1. Events at or before c - L - W. A record still to come has e > c - L, and any window that
//!    contains it begins after c - L - W.
//! 2. The oldest beyond C = (n + 2)(K - 1) + 1 events. The C + 1 events at that moment lie within
//!    W + L, that is within n + 1 windows, so one window holds K of them.
//!    - While an incident lasts: those K keep it up until at least W after the forgotten event e0. So
//!      e0 is in no window after the incident's end, and cannot prolong the incident either.
//!    - While none does: no window that ends after the last incident's end x holds K events. So at
//!      most (n + 1)(K - 1) of the kept events lie after x, and a window that ends after x needs, to
//!      reach K with a late one, only the K - 1 newest of the others. C covers both.
//!
//! Tumbling windows [mW, (m + 1)W): W + L may touch n + 2 of them, hence one more (K - 1). And there is
//! always room for the evidence.
//!
//! A count that may have lost forgotten events is told as "at least"; it is then at least K.

use std::{sync::Arc, time::Duration};

use super::{
    event::Value,
    flow::FlowRecord,
    settings::{Rule, WindowKind},
    time::Time,
};

/// Most flows kept and shown as evidence.
pub(super) const EVIDENCE: usize = 20;

/// What a rule's windows have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    kind: WindowKind,
    /// W.
    length: Duration,
    /// K.
    need: usize,
    /// R.
    hold: usize,
    /// W + L.
    retention: Duration,
    /// C.
    capacity: usize,
}

impl Shape {
    /// The shape of `rule`'s windows; `lateness` is L.
    pub(super) fn new(rule: &Rule, lateness: Duration) -> Self {
        let length = rule.window.length.max(Duration::from_nanos(1));
        let need = usize::try_from(rule.at_least).unwrap_or(usize::MAX).max(1);
        let hold = usize::try_from(rule.resolve_below).unwrap_or(usize::MAX).clamp(1, need);
        let lengths = usize::try_from(lateness.as_nanos().div_ceil(length.as_nanos())).unwrap_or(usize::MAX);
        let spare = match rule.window.kind {
            WindowKind::Sliding => 2,
            WindowKind::Tumbling => 3,
        };
        let capacity =
            (need - 1).saturating_mul(lengths.saturating_add(spare)).saturating_add(1).max(EVIDENCE);
        Self { kind: rule.window.kind, length, need, hold, retention: length + lateness, capacity }
    }

    /// W + L: how long an event can matter.
    pub(super) fn retention(&self) -> Duration {
        self.retention
    }

    /// Whether the window that ends at `end` reaches back to `event`.
    pub(super) fn reaches(&self, event: Time, end: Time) -> bool {
        match self.kind {
            WindowKind::Sliding => end.since(event) < self.length,
            WindowKind::Tumbling => self.number(event) >= self.number(end),
        }
    }

    /// The first moment at which `event` is out of the window.
    fn leaves(&self, event: Time) -> Time {
        match self.kind {
            WindowKind::Sliding => event + self.length,
            WindowKind::Tumbling => {
                let end = (self.number(event) + 1).saturating_mul(self.length.as_nanos());
                Time::from_nanos(u64::try_from(end).unwrap_or(u64::MAX))
            }
        }
    }

    fn number(&self, time: Time) -> u128 {
        u128::from(time.as_nanos()) / self.length.as_nanos()
    }
}

/// A qualifying flow; its record is kept while it is among the newest.
#[derive(Clone, Debug)]
struct Event {
    time: Time,
    record: Option<Arc<FlowRecord>>,
}

/// The qualifying flows of one source.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    /// Ascending in time; of equal times in the order of arrival.
    events: Vec<Event>,
    /// The newest event forgotten for want of room; the clock's beginning is before every event.
    forgotten: Time,
}

impl Window {
    /// Adds an event that arrives at `clock`; false when it is too late to be judged.
    pub(super) fn insert(&mut self, shape: &Shape, clock: Time, record: Arc<FlowRecord>) -> bool {
        self.prune(shape, clock);
        let time = record.time();
        if time + shape.retention <= clock {
            return false;
        }
        if self.events.len() == self.events.capacity() {
            // Most sources have few events: grow from one, not from Vec's four.
            self.events.reserve_exact(self.events.len().max(1));
        }
        let position = self.events.partition_point(|event| event.time <= time);
        self.events.insert(position, Event { time, record: Some(record) });
        if let Some(aged) = self.events.len().checked_sub(EVIDENCE + 1) {
            self.events[aged].record = None;
        }
        if self.events.len() > shape.capacity {
            self.forgotten = self.forgotten.max(self.events.remove(0).time);
        }
        true
    }

    /// Forgets what no window can reach any more.
    pub(super) fn prune(&mut self, shape: &Shape, clock: Time) {
        let past = self.events.partition_point(|event| event.time + shape.retention <= clock);
        self.events.drain(..past);
        if self.events.len() * 4 < self.events.capacity() {
            self.events.shrink_to_fit();
        }
    }

    /// The first event time after `after` at which the condition holds.
    pub(super) fn decided(&self, shape: &Shape, after: Option<Time>) -> Option<Time> {
        self.events.windows(shape.need).find_map(|run| {
            let (oldest, newest) = (run.first()?.time, run.last()?.time);
            (after.is_none_or(|after| newest > after) && shape.reaches(oldest, newest)).then_some(newest)
        })
    }

    /// Until when the value last was, or will have been, at the resolve threshold or above.
    pub(super) fn holds_until(&self, shape: &Shape) -> Option<Time> {
        self.events.windows(shape.hold).rev().find_map(|run| {
            let (oldest, newest) = (run.first()?.time, run.last()?.time);
            shape.reaches(oldest, newest).then(|| shape.leaves(oldest))
        })
    }

    /// The value at `time`.
    pub(super) fn value(&self, shape: &Shape, time: Time) -> Value {
        let behind = self.events.partition_point(|event| event.time <= time);
        let before = self.events[..behind].partition_point(|event| !shape.reaches(event.time, time));
        let count = (behind - before) as u64;
        let lost = self.forgotten > Time::ZERO && shape.reaches(self.forgotten, time);
        if lost { Value::AtLeast(count) } else { Value::Exactly(count) }
    }

    /// The newest flows in or after the window that ends at `end`, oldest first.
    pub(super) fn evidence(&self, shape: &Shape, end: Time) -> Vec<Arc<FlowRecord>> {
        let kept = self.events.iter().filter(|event| shape.reaches(event.time, end));
        kept.filter_map(|event| event.record.clone()).collect()
    }

    /// Events held.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    const HOUR: Duration = Duration::from_secs(3_600);
    const LATE: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    fn shape(kind: WindowKind, at_least: u64) -> Shape {
        let mut rule = fixture::rule();
        (rule.at_least, rule.resolve_below) = (at_least, at_least);
        rule.window.length = HOUR;
        rule.window.kind = kind;
        Shape::new(&rule, LATE)
    }

    fn window(shape: &Shape, events: impl IntoIterator<Item = u64>) -> Window {
        let mut window = Window::default();
        let mut clock = Time::ZERO;
        for event in events {
            clock = clock.max(at(event));
            window.insert(shape, clock, fixture::record(at(event)));
        }
        window
    }

    #[test]
    fn the_sliding_window_is_open_at_its_beginning() {
        let three = shape(WindowKind::Sliding, 3);
        assert_eq!(window(&three, [100, 200, 3_699]).decided(&three, None), Some(at(3_699)));
        assert_eq!(window(&three, [100, 200, 3_700]).decided(&three, None), None);
    }

    #[test]
    fn the_tumbling_window_begins_at_multiples_of_its_length() {
        let three = shape(WindowKind::Tumbling, 3);
        assert_eq!(window(&three, [3_600, 5_000, 7_199]).decided(&three, None), Some(at(7_199)));
        assert_eq!(window(&three, [3_599, 3_600, 7_199]).decided(&three, None), None);
        assert_eq!(window(&three, [3_600, 5_000, 7_199]).holds_until(&three), Some(at(7_200)));
    }

    #[test]
    fn a_late_event_is_judged_in_its_own_time() {
        let three = shape(WindowKind::Sliding, 3);
        let orders = [[100, 150, 390], [390, 150, 100], [150, 390, 100]];
        for order in orders {
            assert_eq!(window(&three, order).decided(&three, None), Some(at(390)), "{order:?}");
        }
    }

    #[test]
    fn an_event_later_than_the_retention_is_refused() {
        let three = shape(WindowKind::Sliding, 3);
        let mut window = Window::default();
        assert!(window.insert(&three, at(5_000), fixture::record(at(1_101))));
        assert!(!window.insert(&three, at(5_000), fixture::record(at(1_100))));
        assert_eq!(window.len(), 1);
    }

    #[test]
    fn what_an_incident_had_is_not_counted_for_the_next() {
        let two = shape(WindowKind::Sliding, 2);
        let window = window(&two, [100, 101, 5_000]);
        assert_eq!(window.decided(&two, Some(at(200))), None);
        assert_eq!(window.decided(&two, None), None, "100 and 101 are out of reach by then");
    }

    #[test]
    fn memory_and_evidence_are_bounded_and_the_value_says_so() {
        let ten = shape(WindowKind::Sliding, 10);
        assert_eq!(ten.capacity, 28);
        let window = window(&ten, 0..1_000);
        assert_eq!(window.len(), ten.capacity);
        assert_eq!(window.value(&ten, at(999)), Value::AtLeast(28));
        assert_eq!(
            window.value(&ten, at(3_599 + 971)),
            Value::AtLeast(28),
            "the last forgotten one leaves at 4571"
        );
        assert_eq!(window.value(&ten, at(3_600 + 971)), Value::Exactly(28));
        assert_eq!(window.value(&ten, at(3_600 + 972)), Value::Exactly(27));
        assert_eq!(window.holds_until(&ten), Some(at(990 + 3_600)));
        let evidence = window.evidence(&ten, at(999));
        assert_eq!(evidence.len(), EVIDENCE);
        assert_eq!(
            evidence.iter().map(|record| record.time()).collect::<Vec<_>>(),
            (980..1_000).map(at).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_source_with_one_flow_costs_one_event() {
        let ten = shape(WindowKind::Sliding, 10);
        let mut one = window(&ten, [7]);
        assert_eq!(one.events.capacity(), 1);
        assert!(size_of::<Window>() <= 32 && size_of::<Event>() <= 16);
        one.prune(&ten, at(7) + ten.retention());
        assert_eq!((one.len(), one.events.capacity()), (0, 0));
    }

    #[test]
    fn a_window_shorter_than_the_lateness_keeps_more() {
        let mut rule = fixture::rule();
        rule.window.length = Duration::from_secs(60);
        assert_eq!(Shape::new(&rule, LATE).capacity, 9 * 7 + 1);
    }
}
