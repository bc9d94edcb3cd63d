//! Window state of one term for one group, in bounded memory. The documentation of each kind states the error that
//! the bound causes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    count::CountWindow,
    distinct::{DistinctWindow, EndpointBytes},
    first_seen::FirstSeenWindow,
    spec::WindowSpec,
    sum::SumWindow,
    value::Value,
};
use crate::{
    rule::{Measure, Thresholds},
    time::Time,
};

/// Window state of one term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum WindowState {
    /// State of a count.
    Count(CountWindow),
    /// State of a sum.
    Sum(SumWindow),
    /// State of a ratio: numerator and denominator.
    Ratio(Box<(SumWindow, SumWindow)>),
    /// State of a count of distinct endpoints.
    Distinct(DistinctWindow),
    /// State of a count of endpoints seen for the first time.
    FirstSeen(FirstSeenWindow),
}

/// Measure and window parameters of a term.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TermSpec {
    pub(crate) measure: Measure,
    pub(crate) window_spec: WindowSpec,
    /// Highest threshold of any group.
    pub(crate) max_threshold: u64,
    /// End of the learning period, from which on endpoints can be new.
    pub(crate) learning_ends: Time,
}

impl TermSpec {
    /// Returns the duration after which an event has expired.
    pub(crate) fn retention(&self) -> Duration {
        match self.measure {
            Measure::FirstSeen { horizon, .. } => {
                self.window_spec.retention().max(horizon + self.window_spec.lateness())
            }
            _ => self.window_spec.retention(),
        }
    }
}

/// End of the last period in which a term holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldsUntil {
    /// The term never held.
    Never,
    /// The term holds until this time.
    At(Time),
    /// The term does not decide the end, as it is a ratio.
    Undecided,
}

/// Increment of a term by one event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Increment {
    /// One event.
    One,
    /// Amount of a sum.
    Amount(u64),
    /// Amounts of the numerator and of the denominator.
    Ratio(u64, u64),
    /// Event with this endpoint.
    Endpoint(EndpointBytes),
}

impl WindowState {
    /// Returns an empty state for `measure`.
    pub(crate) fn new(measure: Measure) -> Self {
        match measure {
            Measure::Count(_) => WindowState::Count(CountWindow::default()),
            Measure::Sum(_) => WindowState::Sum(SumWindow::default()),
            Measure::Ratio { .. } => WindowState::Ratio(Box::default()),
            Measure::Distinct { .. } => WindowState::Distinct(DistinctWindow::default()),
            Measure::FirstSeen { .. } => WindowState::FirstSeen(FirstSeenWindow::default()),
        }
    }

    /// Adds the increment of an event at `time` that arrives at `clock`.
    pub(crate) fn add(&mut self, term_spec: &TermSpec, clock: Time, time: Time, increment: Increment) {
        match (self, increment) {
            (WindowState::Count(count), _) => count.add(&term_spec.window_spec, clock, time),
            (WindowState::Sum(sum), Increment::Amount(amount)) => {
                sum.add(&term_spec.window_spec, clock, time, amount)
            }
            (WindowState::Ratio(parts), Increment::Ratio(of, to)) => {
                for (sum, amount) in [(&mut parts.0, of), (&mut parts.1, to)] {
                    match amount {
                        0 => sum.prune(&term_spec.window_spec, clock),
                        _ => sum.add(&term_spec.window_spec, clock, time, amount),
                    }
                }
            }
            (WindowState::Distinct(distinct), Increment::Endpoint(end)) => {
                distinct.add(&term_spec.window_spec, term_spec.max_threshold, clock, time, end)
            }
            (WindowState::FirstSeen(first_seen), Increment::Endpoint(end)) => {
                if let Measure::FirstSeen { horizon, .. } = term_spec.measure {
                    first_seen.add(
                        &term_spec.window_spec,
                        (horizon, term_spec.learning_ends),
                        clock,
                        time,
                        end,
                    );
                }
            }
            (
                WindowState::Sum(_)
                | WindowState::Ratio(_)
                | WindowState::Distinct(_)
                | WindowState::FirstSeen(_),
                _,
            ) => {}
        }
    }

    /// Removes entries that have expired at `clock`.
    pub(crate) fn prune(&mut self, term_spec: &TermSpec, clock: Time) {
        match self {
            WindowState::Count(count) => count.prune(&term_spec.window_spec, clock),
            WindowState::Sum(sum) => sum.prune(&term_spec.window_spec, clock),
            WindowState::Ratio(parts) => {
                parts.0.prune(&term_spec.window_spec, clock);
                parts.1.prune(&term_spec.window_spec, clock);
            }
            WindowState::Distinct(distinct) => distinct.prune(&term_spec.window_spec, clock),
            WindowState::FirstSeen(first_seen) => {
                if let Measure::FirstSeen { horizon, .. } = term_spec.measure {
                    first_seen.prune(&term_spec.window_spec, horizon, clock);
                }
            }
        }
    }

    /// Returns the expiry of the newest event, or `None` if the state is empty. For a ratio, the part that expires
    /// first decides.
    pub(crate) fn expires(&self, term_spec: &TermSpec) -> Option<Time> {
        let newest = match self {
            WindowState::Count(count) => count.newest_first().next(),
            WindowState::Sum(sum) => sum.newest(),
            WindowState::Ratio(parts) => match (parts.0.newest(), parts.1.newest()) {
                (Some(of), Some(to)) => Some(of.min(to)),
                (of, to) => of.or(to),
            },
            WindowState::Distinct(distinct) => distinct.newest_first().next(),
            WindowState::FirstSeen(first_seen) => first_seen.newest(),
        };
        newest.map(|newest| newest + term_spec.retention())
    }

    /// Removes entries that [`WindowState::add`] would remove. First-seen endpoints stay, as their horizon is
    /// longer than the window.
    pub(crate) fn prune_if_added(&mut self, term_spec: &TermSpec, clock: Time) {
        if !matches!(self, WindowState::FirstSeen(_)) {
            self.prune(term_spec, clock);
        }
    }

    /// Removes events beyond the capacity. Call after the evaluation: after a lowered threshold several events may
    /// exceed it, and the first of them decides.
    pub(crate) fn trim(&mut self, term_spec: &TermSpec) {
        if let WindowState::Count(count) = self {
            count.trim(&term_spec.window_spec);
        }
    }

    /// Returns the value of the window that ends at `time`; for a ratio in [`Thresholds::PARTS`].
    pub(crate) fn value(&self, term_spec: &TermSpec, time: Time) -> Value {
        match self {
            WindowState::Count(count) => count.value(&term_spec.window_spec, time),
            WindowState::Sum(sum) => Value::Exactly(sum.within(&term_spec.window_spec, time)),
            WindowState::Ratio(parts) => Value::Exactly(ratio(&parts.0, &parts.1, term_spec, time)),
            WindowState::Distinct(distinct) => distinct.value(&term_spec.window_spec, time),
            WindowState::FirstSeen(first_seen) => first_seen.value(&term_spec.window_spec, time),
        }
    }

    /// Returns an upper bound of the value of any window, in constant or linear time.
    pub(crate) fn upper_bound(&self) -> u64 {
        match self {
            WindowState::Count(_) | WindowState::Distinct(_) | WindowState::FirstSeen(_) => self.len() as u64,
            WindowState::Sum(sum) => sum.total(),
            WindowState::Ratio(parts) if parts.0.len() == 0 => 0,
            WindowState::Ratio(_) => u64::MAX,
        }
    }

    /// Returns the end of the last period in which the term holds `threshold`, at most `limit`. The end may lie in
    /// the future.
    pub(crate) fn holds_until(&self, term_spec: &TermSpec, threshold: u64, limit: Time) -> HoldsUntil {
        let until = match self {
            WindowState::Count(count) => count.holds_until(&term_spec.window_spec, threshold, limit),
            WindowState::Sum(sum) => sum.holds_until(&term_spec.window_spec, threshold, limit),
            WindowState::Ratio(_) => return HoldsUntil::Undecided,
            WindowState::Distinct(distinct) => distinct.holds_until(&term_spec.window_spec, threshold, limit),
            WindowState::FirstSeen(first_seen) => {
                first_seen.holds_until(&term_spec.window_spec, threshold, limit)
            }
        };
        until.map_or(HoldsUntil::Never, HoldsUntil::At)
    }

    /// Returns the first event time after `after` at which a count reaches `threshold`. `None` for other measures.
    pub(crate) fn reached_at(
        &self,
        term_spec: &TermSpec,
        threshold: u64,
        after: Option<Time>,
    ) -> Option<Time> {
        match self {
            WindowState::Count(count) => count.reached_at(&term_spec.window_spec, threshold, after),
            _ => None,
        }
    }

    /// Returns the time at which the numerator of a ratio is empty. `None` for other measures.
    pub(crate) fn numerator_empty_at(&self, term_spec: &TermSpec) -> Option<Time> {
        match self {
            WindowState::Ratio(parts) => parts.0.newest().map(|newest| term_spec.window_spec.leaves(newest)),
            _ => None,
        }
    }

    /// Appends the event times after `since` at which the value of a window may increase.
    pub(crate) fn append_event_times(&self, since: Time, times: &mut Vec<Time>) {
        let later = |time: &Time| *time > since;
        match self {
            WindowState::Count(count) => times.extend(count.newest_first().take_while(later)),
            WindowState::Sum(sum) => times.extend(sum.newest_first().take_while(later)),
            WindowState::Ratio(parts) => {
                times.extend(parts.0.newest_first().take_while(later));
                times.extend(parts.1.newest_first().take_while(later));
            }
            WindowState::Distinct(distinct) => times.extend(distinct.newest_first().take_while(later)),
            WindowState::FirstSeen(first_seen) => times.extend(first_seen.event_times().filter(later)),
        }
    }

    /// Reads one word of each heap allocation.
    pub(crate) fn prefetch(&self) -> u64 {
        let newest = match self {
            WindowState::Count(count) => count.newest_first().next(),
            WindowState::Sum(sum) => sum.newest(),
            WindowState::Ratio(parts) => parts.0.newest().max(parts.1.newest()),
            WindowState::Distinct(distinct) => distinct.newest_first().next(),
            WindowState::FirstSeen(first_seen) => first_seen.newest(),
        };
        newest.map_or(0, Time::as_nanos)
    }

    /// Returns the bytes of the heap allocations.
    pub(crate) fn heap(&self) -> usize {
        match self {
            WindowState::Count(count) => count.heap(),
            WindowState::Sum(sum) => sum.heap(),
            WindowState::Ratio(parts) => size_of_val(&**parts) + parts.0.heap() + parts.1.heap(),
            WindowState::Distinct(distinct) => distinct.heap(),
            WindowState::FirstSeen(first_seen) => first_seen.heap(),
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        match self {
            WindowState::Count(count) => count.len(),
            WindowState::Sum(sum) => sum.len(),
            WindowState::Ratio(parts) => parts.0.len() + parts.1.len(),
            WindowState::Distinct(distinct) => distinct.len(),
            WindowState::FirstSeen(first_seen) => first_seen.len(),
        }
    }
}

/// Returns the ratio, never too high: the numerator counts bins wholly inside the window, the denominator every bin
/// that overlaps it.
fn ratio(of: &SumWindow, to: &SumWindow, term_spec: &TermSpec, time: Time) -> u64 {
    let (of, to) = (of.within(&term_spec.window_spec, time), to.touching(&term_spec.window_spec, time));
    let parts = u128::from(of) * u128::from(Thresholds::PARTS);
    parts.checked_div(u128::from(to)).map_or(0, |parts| parts.min(u128::from(Thresholds::PARTS)) as u64)
}
