//! Amounts over time: exact while they are few, in sub-windows beyond that.
//!
//! Each entry is an amount and the times of its first and last event. While there are few, each event
//! time has an entry of its own and every sum is exact. Beyond [`PARTS`] entries, those whose times are
//! in the same sub-window (a window's [`PARTS`]th) become one.
//!
//! The sum of a window leaves out an entry that is not wholly inside ([`SumWindow::within`]): it is never
//! over, and under by no more than what fell into one sub-window at its beginning. Where a number
//! must not be too low, as below a ratio, an entry that is partly inside counts in full
//! ([`SumWindow::touching`]).

use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use super::{
    entries::{forget, heap, more},
    spec::{PARTS, WindowSpec},
};
use crate::time::Time;

/// Amounts over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SumWindow {
    /// Ascending; no two overlap.
    entries: ThinVec<SumBin>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct SumBin {
    first: Time,
    last: Time,
    amount: u64,
}

impl SumWindow {
    /// Adds an amount that arrives while the clock is at `clock`.
    pub(super) fn add(&mut self, shape: &WindowSpec, clock: Time, time: Time, amount: u64) {
        self.prune(shape, clock);
        let next = self.entries.partition_point(|entry| entry.last < time);
        let dense = self.entries.len() >= PARTS as usize;
        let together = |entry: &SumBin| {
            (entry.first <= time && time <= entry.last)
                || (dense && shape.part(entry.first) == shape.part(time))
        };
        for near in [Some(next), next.checked_sub(1)].into_iter().flatten() {
            if let Some(entry) = self.entries.get_mut(near).filter(|entry| together(entry)) {
                entry.first = entry.first.min(time);
                entry.last = entry.last.max(time);
                entry.amount = entry.amount.saturating_add(amount);
                return;
            }
        }
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(more(self.entries.len()));
        }
        self.entries.insert(next, SumBin { first: time, last: time, amount });
        if dense {
            self.join(shape);
        }
    }

    /// Forgets what cannot matter at `clock` any more.
    pub(super) fn prune(&mut self, shape: &WindowSpec, clock: Time) {
        if self.entries.first().is_none_or(|entry| shape.matters(entry.last, clock)) {
            return;
        }
        let old = self.entries.partition_point(|entry| !shape.matters(entry.last, clock));
        forget(&mut self.entries, old);
    }

    /// What the window that ends at `time` holds: never over.
    pub(super) fn within(&self, shape: &WindowSpec, time: Time) -> u64 {
        self.sum(|entry| entry.last <= time && shape.reaches(entry.first, time))
    }

    /// What the window that ends at `time` touches: never under.
    pub(super) fn touching(&self, shape: &WindowSpec, time: Time) -> u64 {
        self.sum(|entry| entry.first <= time && shape.reaches(entry.last, time))
    }

    /// Until when, `before` at the latest, the sum last was, or will have been, at least `hold`.
    pub(super) fn until(&self, shape: &WindowSpec, hold: u64, before: Time) -> Option<Time> {
        let known = self.entries.partition_point(|entry| entry.last < before);
        let entries = self.entries.get(..known)?;
        // `oldest..=newest` is what one window holds; both go back in time.
        let (mut sum, mut oldest) = (0u64, entries.len());
        for (newest, entry) in entries.iter().enumerate().rev() {
            while let Some(next) = oldest.checked_sub(1).and_then(|next| entries.get(next)) {
                if sum >= hold.max(1) || !shape.reaches(next.first, entry.last) {
                    break;
                }
                sum = sum.saturating_add(next.amount);
                oldest -= 1;
            }
            if sum >= hold.max(1) {
                return entries.get(oldest).map(|entry| shape.leaves(entry.first).min(before));
            }
            if oldest <= newest {
                sum -= entry.amount;
            }
        }
        None
    }

    /// The newest event.
    pub(super) fn newest(&self) -> Option<Time> {
        self.entries.last().map(|entry| entry.last)
    }

    /// Event times, the newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = Time> {
        self.entries.iter().rev().map(|entry| entry.last)
    }

    /// Bytes allocated.
    pub(super) fn heap(&self) -> usize {
        heap(&self.entries)
    }

    /// Entries held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All that is held.
    pub(super) fn total(&self) -> u64 {
        self.sum(|_| true)
    }

    fn sum(&self, counts: impl Fn(&SumBin) -> bool) -> u64 {
        let counted = self.entries.iter().filter(|entry| counts(entry));
        counted.fold(0, |sum, entry| sum.saturating_add(entry.amount))
    }

    /// Makes one of entries that are in the same sub-window.
    fn join(&mut self, shape: &WindowSpec) {
        self.entries.dedup_by(|later, entry| {
            let same = shape.part(entry.first) == shape.part(later.first);
            if same {
                entry.last = later.last;
                entry.amount = entry.amount.saturating_add(later.amount);
            }
            same
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::rule::{Window, WindowKind};

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    fn hour() -> WindowSpec {
        let window = Window { length: Duration::from_secs(3_600), kind: WindowKind::Sliding };
        WindowSpec::new(window, 1, Duration::from_secs(300))
    }

    fn series(events: &[(u64, u64)]) -> SumWindow {
        let (mut series, mut clock) = (SumWindow::default(), Time::ZERO);
        for (second, amount) in events {
            clock = clock.max(at(*second));
            series.add(&hour(), clock, at(*second), *amount);
        }
        series
    }

    #[test]
    fn a_few_amounts_are_summed_exactly() {
        let series = series(&[(100, 5), (3_000, 7), (100, 1), (50, 2)]);
        assert_eq!(series.within(&hour(), at(3_000)), 15);
        assert_eq!(series.within(&hour(), at(3_650)), 13, "50 has left");
        assert_eq!(series.within(&hour(), at(3_700)), 7);
        assert_eq!(series.within(&hour(), at(99)), 2, "as it was then");
        assert_eq!(series.until(&hour(), 13, Time::END), Some(at(3_700)));
        assert_eq!(series.until(&hour(), 14, Time::END), Some(at(3_650)));
        assert_eq!(series.until(&hour(), 16, Time::END), None);
    }

    #[test]
    fn memory_is_bounded() {
        let events: Vec<(u64, u64)> = (0..20_000).map(|second| (second, 1)).collect();
        let series = series(&events);
        // The window, the lateness, and the sub-windows that begin or end within.
        assert!(series.len() <= 60 + 5 + 2, "{}", series.len());
        assert!(series.entries.capacity() <= 80);
        let sum = series.within(&hour(), at(19_999));
        assert!((3_540..=3_600).contains(&sum), "{sum}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Never over, never under by more than a sub-window holds; and the other way round below a ratio.
        #[test]
        fn sums_err_by_at_most_one_sub_window(
            steps in prop::collection::vec((0..200u64, 0..300u64, 1..50u64), 1..400),
        ) {
            let (shape, mut series) = (hour(), SumWindow::default());
            let (mut clock, mut all) = (1_000u64, Vec::new());
            for (pass, late, amount) in steps {
                clock += pass;
                let time = clock - late.min(clock);
                series.add(&shape, at(clock), at(time), amount);
                all.push((time, amount));
                let end = clock;
                let inside = |from: u64| {
                    let counted = all.iter().filter(|(time, _)| *time <= end && *time + 3_600 > end + from);
                    counted.map(|(_, amount)| amount).sum::<u64>()
                };
                let within = series.within(&shape, at(end));
                prop_assert!(within <= inside(0), "over: {within} {}", inside(0));
                prop_assert!(within >= inside(60), "under: {within} {}", inside(60));
                prop_assert!(series.touching(&shape, at(end)) >= inside(0));
                if all.len() <= 60 {
                    prop_assert_eq!(within, inside(0));
                }
            }
        }

        /// The moment at which a sum falls below a threshold is the one that a search finds.
        #[test]
        fn the_end_follows_from_the_entries(
            events in prop::collection::vec((0..9_000u64, 1..10u64), 1..40), hold in 1..60u64,
        ) {
            let mut events = events;
            events.sort_unstable();
            let clock = at(3_000);
            let mut series = SumWindow::default();
            for (time, amount) in &events {
                series.add(&hour(), clock, at(*time), *amount);
            }
            let value = |end: u64| -> u64 {
                events.iter().filter(|(time, _)| *time <= end && time + 3_600 > end).map(|(_, n)| n).sum()
            };
            let held = (0..13_000).rev().find(|end| value(*end) >= hold);
            prop_assert_eq!(series.until(&hour(), hold, Time::END), held.map(|last| at(last + 1)));
        }
    }
}
