//! Parameters of a term's windows.

use std::time::Duration;

use crate::{
    rule::{Window, WindowKind},
    time::Time,
};

/// Subwindows of a window, in which sums are merged.
pub(crate) const SUBWINDOWS: u32 = 60;

/// Parameters of a term's windows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowSpec {
    kind: WindowKind,
    /// W, the length of the window.
    length: Duration,
    /// W + L.
    retention: Duration,
    /// C, see `count.rs`.
    capacity: usize,
    /// Length of a subwindow in nanoseconds, if that is a whole number: then a 64-bit division is enough.
    subwindow: Option<u64>,
}

impl WindowSpec {
    /// Returns the parameters of `window` for a highest threshold of `max_threshold` (K); a record is at most
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

    /// Raises the capacity to at least `events`. With several terms, a count can reach its threshold without an
    /// incident, so removed events could matter to a late record.
    pub(crate) fn with_capacity(self, events: usize) -> Self {
        Self { capacity: self.capacity.max(events), ..self }
    }

    /// Returns W + L, after which an event has expired.
    pub(crate) fn retention(&self) -> Duration {
        self.retention
    }

    /// Returns L, the largest lateness of a record.
    pub(crate) fn lateness(&self) -> Duration {
        self.retention - self.length
    }

    /// Returns C, the most events that are kept.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns true if an event at `event` has not expired at `clock`.
    pub(crate) fn is_relevant(&self, event: Time, clock: Time) -> bool {
        event + self.retention > clock
    }

    /// Returns true if the window that ends at `end` begins before `event`, so that it contains `event` if that is
    /// not after `end`.
    pub(crate) fn contains_event(&self, event: Time, end: Time) -> bool {
        match self.kind {
            WindowKind::Sliding => end.since(event) < self.length,
            WindowKind::Tumbling => self.number(event) >= self.number(end),
        }
    }

    /// Returns the first time at which the window does not contain `event` any more.
    pub(crate) fn leaves(&self, event: Time) -> Time {
        match self.kind {
            WindowKind::Sliding => event + self.length,
            WindowKind::Tumbling => {
                let end = (self.number(event) + 1).saturating_mul(self.length.as_nanos());
                Time::from_nanos(u64::try_from(end).unwrap_or(u64::MAX))
            }
        }
    }

    /// Returns the number of the subwindow that contains `event`.
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
