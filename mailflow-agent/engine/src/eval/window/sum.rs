//! Sum window: amounts over time, exact for few events, and binned by subwindow beyond that.
//!
//! Each bin has an amount and the times of its first and last event. With few events, each event time has its own
//! bin, and every sum is exact. Beyond [`SUBWINDOWS`] bins, events in the same subwindow (a [`SUBWINDOWS`]th of the
//! window) share a bin.
//!
//! The sum of a window omits a bin that is not wholly inside ([`SumWindow::within`]). So it is never too high, and
//! too low by at most the amount of one subwindow. A denominator must not be too low, so it counts bins that are
//! partly inside in full ([`SumWindow::touching`]).

use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use super::{
    entries::{growth, heap, remove_oldest},
    spec::{SUBWINDOWS, WindowSpec},
};
use crate::time::Time;

/// Binned amounts over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SumWindow {
    /// Bins, ascending and disjoint.
    bins: ThinVec<SumBin>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct SumBin {
    first: Time,
    last: Time,
    amount: u64,
}

impl SumWindow {
    /// Adds an amount that arrives at `clock`.
    pub(super) fn add(&mut self, window_spec: &WindowSpec, clock: Time, time: Time, amount: u64) {
        self.prune(window_spec, clock);
        let next = self.bins.partition_point(|bin| bin.last < time);
        let is_full = self.bins.len() >= SUBWINDOWS as usize;
        let is_same_bin = |bin: &SumBin| {
            (bin.first <= time && time <= bin.last)
                || (is_full && window_spec.subwindow(bin.first) == window_spec.subwindow(time))
        };
        for neighbour in [Some(next), next.checked_sub(1)].into_iter().flatten() {
            if let Some(bin) = self.bins.get_mut(neighbour).filter(|bin| is_same_bin(bin)) {
                bin.first = bin.first.min(time);
                bin.last = bin.last.max(time);
                bin.amount = bin.amount.saturating_add(amount);
                return;
            }
        }
        if self.bins.len() == self.bins.capacity() {
            self.bins.reserve_exact(growth(self.bins.len()));
        }
        self.bins.insert(next, SumBin { first: time, last: time, amount });
        if is_full {
            self.merge_bins(window_spec);
        }
    }

    /// Removes bins that have expired at `clock`.
    pub(super) fn prune(&mut self, window_spec: &WindowSpec, clock: Time) {
        if self.bins.first().is_none_or(|bin| window_spec.is_relevant(bin.last, clock)) {
            return;
        }
        let expired = self.bins.partition_point(|bin| !window_spec.is_relevant(bin.last, clock));
        remove_oldest(&mut self.bins, expired);
    }

    /// Returns the sum of the window that ends at `time`; never too high.
    pub(super) fn within(&self, window_spec: &WindowSpec, time: Time) -> u64 {
        self.sum(|bin| bin.last <= time && window_spec.contains_event(bin.first, time))
    }

    /// Returns the sum of all bins that overlap the window that ends at `time`; never too low.
    pub(super) fn touching(&self, window_spec: &WindowSpec, time: Time) -> u64 {
        self.sum(|bin| bin.first <= time && window_spec.contains_event(bin.last, time))
    }

    /// Returns the end of the last period with a sum of at least `threshold`, at most `limit`. The end may lie in
    /// the future.
    pub(super) fn holds_until(&self, window_spec: &WindowSpec, threshold: u64, limit: Time) -> Option<Time> {
        let end = self.bins.partition_point(|bin| bin.last < limit);
        let bins = self.bins.get(..end)?;
        // `oldest..=newest` are the bins of one window. Both indices go back in time.
        let (mut sum, mut oldest) = (0u64, bins.len());
        for (newest, bin) in bins.iter().enumerate().rev() {
            while let Some(next) = oldest.checked_sub(1).and_then(|next| bins.get(next)) {
                if sum >= threshold.max(1) || !window_spec.contains_event(next.first, bin.last) {
                    break;
                }
                sum = sum.saturating_add(next.amount);
                oldest -= 1;
            }
            if sum >= threshold.max(1) {
                return bins.get(oldest).map(|bin| window_spec.leaves(bin.first).min(limit));
            }
            if oldest <= newest {
                sum -= bin.amount;
            }
        }
        None
    }

    /// Returns the time of the newest event.
    pub(super) fn newest(&self) -> Option<Time> {
        self.bins.last().map(|bin| bin.last)
    }

    /// Returns the last event time of each bin, newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = Time> {
        self.bins.iter().rev().map(|bin| bin.last)
    }

    /// Returns the bytes of the heap allocation.
    pub(super) fn heap(&self) -> usize {
        heap(&self.bins)
    }

    /// Returns the number of bins.
    pub(super) fn len(&self) -> usize {
        self.bins.len()
    }

    /// Returns the sum of all bins.
    pub(super) fn total(&self) -> u64 {
        self.sum(|_| true)
    }

    fn sum(&self, counts: impl Fn(&SumBin) -> bool) -> u64 {
        let counted = self.bins.iter().filter(|bin| counts(bin));
        counted.fold(0, |sum, bin| sum.saturating_add(bin.amount))
    }

    /// Merges bins of the same subwindow.
    fn merge_bins(&mut self, window_spec: &WindowSpec) {
        self.bins.dedup_by(|later, bin| {
            let same = window_spec.subwindow(bin.first) == window_spec.subwindow(later.first);
            if same {
                bin.last = later.last;
                bin.amount = bin.amount.saturating_add(later.amount);
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

    fn window(events: &[(u64, u64)]) -> SumWindow {
        let (mut window, mut clock) = (SumWindow::default(), Time::ZERO);
        for (second, amount) in events {
            clock = clock.max(at(*second));
            window.add(&hour(), clock, at(*second), *amount);
        }
        window
    }

    #[test]
    fn sums_of_few_amounts_are_exact() {
        let window = window(&[(100, 5), (3_000, 7), (100, 1), (50, 2)]);
        assert_eq!(window.within(&hour(), at(3_000)), 15);
        assert_eq!(window.within(&hour(), at(3_650)), 13, "50 has left");
        assert_eq!(window.within(&hour(), at(3_700)), 7);
        assert_eq!(window.within(&hour(), at(99)), 2, "as it was then");
        assert_eq!(window.holds_until(&hour(), 13, Time::END), Some(at(3_700)));
        assert_eq!(window.holds_until(&hour(), 14, Time::END), Some(at(3_650)));
        assert_eq!(window.holds_until(&hour(), 16, Time::END), None);
    }

    #[test]
    fn memory_is_bounded() {
        let events: Vec<(u64, u64)> = (0..20_000).map(|second| (second, 1)).collect();
        let window = window(&events);
        // The window, the lateness, and the subwindows that begin or end within.
        assert!(window.len() <= 60 + 5 + 2, "{}", window.len());
        assert!(window.bins.capacity() <= 80);
        let sum = window.within(&hour(), at(19_999));
        assert!((3_540..=3_600).contains(&sum), "{sum}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// A sum is never too high, and too low by at most one subwindow. A denominator is never too low.
        #[test]
        fn sums_err_by_at_most_one_sub_window(
            steps in prop::collection::vec((0..200u64, 0..300u64, 1..50u64), 1..400),
        ) {
            let (window_spec, mut window) = (hour(), SumWindow::default());
            let (mut clock, mut all) = (1_000u64, Vec::new());
            for (pass, late, amount) in steps {
                clock += pass;
                let time = clock - late.min(clock);
                window.add(&window_spec, at(clock), at(time), amount);
                all.push((time, amount));
                let end = clock;
                let inside = |from: u64| {
                    let counted = all.iter().filter(|(time, _)| *time <= end && *time + 3_600 > end + from);
                    counted.map(|(_, amount)| amount).sum::<u64>()
                };
                let within = window.within(&window_spec, at(end));
                prop_assert!(within <= inside(0), "over: {within} {}", inside(0));
                prop_assert!(within >= inside(60), "under: {within} {}", inside(60));
                prop_assert!(window.touching(&window_spec, at(end)) >= inside(0));
                if all.len() <= 60 {
                    prop_assert_eq!(within, inside(0));
                }
            }
        }

        /// The time at which a sum falls below a threshold equals that of an exhaustive search.
        #[test]
        fn the_end_of_a_sum_equals_an_exhaustive_search(
            events in prop::collection::vec((0..9_000u64, 1..10u64), 1..40), threshold in 1..60u64,
        ) {
            let mut events = events;
            events.sort_unstable();
            let clock = at(3_000);
            let mut window = SumWindow::default();
            for (time, amount) in &events {
                window.add(&hour(), clock, at(*time), *amount);
            }
            let value = |end: u64| -> u64 {
                events.iter().filter(|(time, _)| *time <= end && time + 3_600 > end).map(|(_, n)| n).sum()
            };
            let held = (0..13_000).rev().find(|end| value(*end) >= threshold);
            prop_assert_eq!(window.holds_until(&hour(), threshold, Time::END), held.map(|last| at(last + 1)));
        }
    }
}
