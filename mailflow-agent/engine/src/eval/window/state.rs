//! What a rule remembers of one subject, term by term: in bounded memory, and what that costs in exactness
//! is written at the top of each kind.

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

/// What is remembered for one term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum WindowState {
    /// Of a count.
    Count(CountWindow),
    /// Of a sum.
    Sum(SumWindow),
    /// Of a ratio: numerator and denominator.
    Ratio(Box<(SumWindow, SumWindow)>),
    /// Of distinct ends.
    Distinct(DistinctWindow),
    /// Of ends seen for the first time.
    FirstSeen(FirstSeenWindow),
}

/// A term as its stores see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TermSpec {
    pub(crate) measure: Measure,
    pub(crate) window_spec: WindowSpec,
    /// The highest threshold of any subject.
    pub(crate) max_threshold: u64,
    /// When the rule has watched for long enough to tell what is new.
    pub(crate) learning_ends: Time,
}

impl TermSpec {
    /// Returns how long an event can matter.
    pub(crate) fn retention(&self) -> Duration {
        match self.measure {
            Measure::FirstSeen { horizon, .. } => {
                self.window_spec.retention().max(horizon + self.window_spec.lateness())
            }
            _ => self.window_spec.retention(),
        }
    }
}

/// Until when a term holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldsUntil {
    /// It never did.
    Never,
    /// Until then.
    At(Time),
    /// It does not decide that.
    Undecided,
}

/// What one event adds to a term.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Increment {
    /// One more.
    One,
    /// An amount.
    Amount(u64),
    /// One above, one below the line, or both.
    Ratio(u64, u64),
    /// Seen with this end.
    Endpoint(EndpointBytes),
}

impl WindowState {
    /// An empty one for `measure`.
    pub(crate) fn new(measure: Measure) -> Self {
        match measure {
            Measure::Count(_) => WindowState::Count(CountWindow::default()),
            Measure::Sum(_) => WindowState::Sum(SumWindow::default()),
            Measure::Ratio { .. } => WindowState::Ratio(Box::default()),
            Measure::Distinct { .. } => WindowState::Distinct(DistinctWindow::default()),
            Measure::FirstSeen { .. } => WindowState::FirstSeen(FirstSeenWindow::default()),
        }
    }

    /// Adds what an event at `time` gave, while the clock is at `clock`.
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

    /// Forgets what cannot matter at `clock` any more.
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

    /// Returns when the newest event of the store, of a ratio of either part, cannot matter any more; `None` if it is
    /// empty.
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

    /// Does so where [`WindowState::add`] would have: what is known of ends that were seen is longer, and stays.
    pub(crate) fn prune_if_added(&mut self, term_spec: &TermSpec, clock: Time) {
        if !matches!(self, WindowState::FirstSeen(_)) {
            self.prune(term_spec, clock);
        }
    }

    /// Forgets events for which there is no room, once they were judged: under a threshold that was higher before
    /// there may be more than one, and the first of them decide.
    pub(crate) fn trim(&mut self, term_spec: &TermSpec) {
        if let WindowState::Count(count) = self {
            count.trim(&term_spec.window_spec);
        }
    }

    /// What the window that ends at `time` holds; of a ratio, in [`Thresholds::SUBWINDOWS`].
    pub(crate) fn value(&self, term_spec: &TermSpec, time: Time) -> Value {
        match self {
            WindowState::Count(count) => count.value(&term_spec.window_spec, time),
            WindowState::Sum(sum) => Value::Exactly(sum.within(&term_spec.window_spec, time)),
            WindowState::Ratio(parts) => Value::Exactly(ratio(&parts.0, &parts.1, term_spec, time)),
            WindowState::Distinct(distinct) => distinct.value(&term_spec.window_spec, time),
            WindowState::FirstSeen(first_seen) => first_seen.value(&term_spec.window_spec, time),
        }
    }

    /// No window holds more than this, as far as that can be told at once.
    pub(crate) fn upper_bound(&self) -> u64 {
        match self {
            WindowState::Count(_) | WindowState::Distinct(_) | WindowState::FirstSeen(_) => self.len() as u64,
            WindowState::Sum(sum) => sum.total(),
            WindowState::Ratio(parts) if parts.0.len() == 0 => 0,
            WindowState::Ratio(_) => u64::MAX,
        }
    }

    /// Until when, `before` at the latest, it last held, or will have held, `threshold`.
    pub(crate) fn until(&self, term_spec: &TermSpec, threshold: u64, before: Time) -> HoldsUntil {
        let until = match self {
            WindowState::Count(count) => count.until(&term_spec.window_spec, threshold, before),
            WindowState::Sum(sum) => sum.until(&term_spec.window_spec, threshold, before),
            WindowState::Ratio(_) => return HoldsUntil::Undecided,
            WindowState::Distinct(distinct) => distinct.until(&term_spec.window_spec, threshold, before),
            WindowState::FirstSeen(first_seen) => first_seen.until(&term_spec.window_spec, threshold, before),
        };
        until.map_or(HoldsUntil::Never, HoldsUntil::At)
    }

    /// The first event time after `after` at which there are `max_threshold`: of a count, wherever in the past.
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

    /// When the numerator of a ratio is empty.
    pub(crate) fn numerator_empty_at(&self, term_spec: &TermSpec) -> Option<Time> {
        match self {
            WindowState::Ratio(parts) => parts.0.newest().map(|newest| term_spec.window_spec.leaves(newest)),
            _ => None,
        }
    }

    /// Adds the event times from `since` on, at which what a window holds may have become more.
    pub(crate) fn moments(&self, since: Time, moments: &mut Vec<Time>) {
        let later = |time: &Time| *time > since;
        match self {
            WindowState::Count(count) => moments.extend(count.newest_first().take_while(later)),
            WindowState::Sum(sum) => moments.extend(sum.newest_first().take_while(later)),
            WindowState::Ratio(parts) => {
                moments.extend(parts.0.newest_first().take_while(later));
                moments.extend(parts.1.newest_first().take_while(later));
            }
            WindowState::Distinct(distinct) => moments.extend(distinct.newest_first().take_while(later)),
            WindowState::FirstSeen(first_seen) => moments.extend(first_seen.moments().filter(later)),
        }
    }

    /// Reads something of what it has allocated.
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

    /// Returns the bytes that it has allocated.
    pub(crate) fn heap(&self) -> usize {
        match self {
            WindowState::Count(count) => count.heap(),
            WindowState::Sum(sum) => sum.heap(),
            WindowState::Ratio(parts) => size_of_val(&**parts) + parts.0.heap() + parts.1.heap(),
            WindowState::Distinct(distinct) => distinct.heap(),
            WindowState::FirstSeen(first_seen) => first_seen.heap(),
        }
    }

    /// Entries held.
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

/// Never over: the numerator counts what is wholly inside of the window, the denominator what touches it.
fn ratio(of: &SumWindow, to: &SumWindow, term_spec: &TermSpec, time: Time) -> u64 {
    let (of, to) = (of.within(&term_spec.window_spec, time), to.touching(&term_spec.window_spec, time));
    let parts = u128::from(of) * u128::from(Thresholds::PARTS);
    parts.checked_div(u128::from(to)).map_or(0, |parts| parts.min(u128::from(Thresholds::PARTS)) as u64)
}
