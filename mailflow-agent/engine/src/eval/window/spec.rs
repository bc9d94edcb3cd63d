//! What the windows of one term have in common.

use std::time::Duration;

use crate::{
    rule::{Window, WindowKind},
    time::Time,
};

/// Into how many parts a window is divided where sums are kept by part.
pub(crate) const SUBWINDOWS: u32 = 60;

/// The shape of a term's windows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowSpec {
    kind: WindowKind,
    /// W.
    length: Duration,
    /// W + L.
    retention: Duration,
    /// C: see `count.rs`.
    capacity: usize,
    /// A sub-window's nanoseconds, where they are a whole number: a division by that is far cheaper.
    subwindow: Option<u64>,
}

impl WindowSpec {
    /// The shape of `window`, in which at most `max_threshold` (K) must be told apart; a record is at most
    /// `lateness` (L) late.
    pub(crate) fn new(window: Window, max_threshold: u64, lateness: Duration) -> Self {
        let length = window.length.max(Duration::from_nanos(1));
        let max_threshold = usize::try_from(max_threshold).unwrap_or(usize::MAX).max(1);
        let lengths = usize::try_from(lateness.as_nanos().div_ceil(length.as_nanos())).unwrap_or(usize::MAX);
        let extra_windows = match window.kind {
            WindowKind::Sliding => 2,
            WindowKind::Tumbling => 3,
        };
        let capacity =
            (max_threshold - 1).saturating_mul(lengths.saturating_add(extra_windows)).saturating_add(1);
        let divisible =
            u64::try_from(length.as_nanos()).ok().filter(|length| *length % u64::from(SUBWINDOWS) == 0);
        let subwindow = divisible.map(|length| length / u64::from(SUBWINDOWS));
        Self { kind: window.kind, length, retention: length + lateness, capacity, subwindow }
    }

    /// With room for at least so many events. Where a count is one of several terms, no incident may last while
    /// it holds, and what is forgotten might have mattered to a late record.
    pub(crate) fn with_capacity(self, events: usize) -> Self {
        Self { capacity: self.capacity.max(events), ..self }
    }

    /// W + L: how long an event can matter.
    pub(crate) fn retention(&self) -> Duration {
        self.retention
    }

    /// L: how late a record can be.
    pub(crate) fn lateness(&self) -> Duration {
        self.retention - self.length
    }

    /// C: most events kept apart.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns true if an event at `event` can still matter at `clock`.
    pub(crate) fn is_relevant(&self, event: Time, clock: Time) -> bool {
        event + self.retention > clock
    }

    /// Returns true if the window that ends at `end` reaches back to `event`.
    pub(crate) fn contains_event(&self, event: Time, end: Time) -> bool {
        match self.kind {
            WindowKind::Sliding => end.since(event) < self.length,
            WindowKind::Tumbling => self.number(event) >= self.number(end),
        }
    }

    /// The first moment at which `event` is out of the window.
    pub(crate) fn leaves(&self, event: Time) -> Time {
        match self.kind {
            WindowKind::Sliding => event + self.length,
            WindowKind::Tumbling => {
                let end = (self.number(event) + 1).saturating_mul(self.length.as_nanos());
                Time::from_nanos(u64::try_from(end).unwrap_or(u64::MAX))
            }
        }
    }

    /// The number of the sub-window that `event` is in.
    pub(crate) fn subwindow(&self, event: Time) -> u128 {
        match self.subwindow {
            Some(subwindow) => u128::from(event.as_nanos() / subwindow),
            None => u128::from(event.as_nanos()) * u128::from(SUBWINDOWS) / self.length.as_nanos(),
        }
    }

    fn number(&self, time: Time) -> u128 {
        u128::from(time.as_nanos()) / self.length.as_nanos()
    }
}
