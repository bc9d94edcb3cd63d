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
    pub(crate) shape: WindowSpec,
    /// The highest threshold of any subject.
    pub(crate) need: u64,
    /// When the rule has watched for long enough to tell what is new.
    pub(crate) learnt: Time,
}

impl TermSpec {
    /// Returns how long an event can matter.
    pub(crate) fn retention(&self) -> Duration {
        match self.measure {
            Measure::FirstSeen { horizon, .. } => self.shape.retention().max(horizon + self.shape.lateness()),
            _ => self.shape.retention(),
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
    Parts(u64, u64),
    /// Seen with this end.
    With(EndpointBytes),
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
    pub(crate) fn add(&mut self, frame: &TermSpec, clock: Time, time: Time, gain: Increment) {
        match (self, gain) {
            (WindowState::Count(times), _) => times.add(&frame.shape, clock, time),
            (WindowState::Sum(series), Increment::Amount(amount)) => {
                series.add(&frame.shape, clock, time, amount)
            }
            (WindowState::Ratio(both), Increment::Parts(of, to)) => {
                for (series, amount) in [(&mut both.0, of), (&mut both.1, to)] {
                    match amount {
                        0 => series.prune(&frame.shape, clock),
                        _ => series.add(&frame.shape, clock, time, amount),
                    }
                }
            }
            (WindowState::Distinct(ends), Increment::With(end)) => {
                ends.add(&frame.shape, frame.need, clock, time, end)
            }
            (WindowState::FirstSeen(sightings), Increment::With(end)) => {
                if let Measure::FirstSeen { horizon, .. } = frame.measure {
                    sightings.add(&frame.shape, (horizon, frame.learnt), clock, time, end);
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
    pub(crate) fn prune(&mut self, frame: &TermSpec, clock: Time) {
        match self {
            WindowState::Count(times) => times.prune(&frame.shape, clock),
            WindowState::Sum(series) => series.prune(&frame.shape, clock),
            WindowState::Ratio(both) => {
                both.0.prune(&frame.shape, clock);
                both.1.prune(&frame.shape, clock);
            }
            WindowState::Distinct(ends) => ends.prune(&frame.shape, clock),
            WindowState::FirstSeen(sightings) => {
                if let Measure::FirstSeen { horizon, .. } = frame.measure {
                    sightings.prune(&frame.shape, horizon, clock);
                }
            }
        }
    }

    /// Returns when the newest event of the store, of a ratio of either part, cannot matter any more; `None` if it is
    /// empty.
    pub(crate) fn expires(&self, frame: &TermSpec) -> Option<Time> {
        let newest = match self {
            WindowState::Count(times) => times.newest_first().next(),
            WindowState::Sum(series) => series.newest(),
            WindowState::Ratio(both) => match (both.0.newest(), both.1.newest()) {
                (Some(of), Some(to)) => Some(of.min(to)),
                (of, to) => of.or(to),
            },
            WindowState::Distinct(ends) => ends.newest_first().next(),
            WindowState::FirstSeen(sightings) => sightings.newest(),
        };
        newest.map(|newest| newest + frame.retention())
    }

    /// Does so where [`WindowState::add`] would have: what is known of ends that were seen is longer, and stays.
    pub(crate) fn age(&mut self, frame: &TermSpec, clock: Time) {
        if !matches!(self, WindowState::FirstSeen(_)) {
            self.prune(frame, clock);
        }
    }

    /// Forgets events for which there is no room, once they were judged: under a threshold that was higher before
    /// there may be more than one, and the first of them decide.
    pub(crate) fn fit(&mut self, frame: &TermSpec) {
        if let WindowState::Count(times) = self {
            times.fit(&frame.shape);
        }
    }

    /// What the window that ends at `time` holds; of a ratio, in [`Thresholds::PARTS`].
    pub(crate) fn value(&self, frame: &TermSpec, time: Time) -> Value {
        match self {
            WindowState::Count(times) => times.value(&frame.shape, time),
            WindowState::Sum(series) => Value::Exactly(series.within(&frame.shape, time)),
            WindowState::Ratio(both) => Value::Exactly(ratio(&both.0, &both.1, frame, time)),
            WindowState::Distinct(ends) => ends.value(&frame.shape, time),
            WindowState::FirstSeen(sightings) => sightings.value(&frame.shape, time),
        }
    }

    /// No window holds more than this, as far as that can be told at once.
    pub(crate) fn most(&self) -> u64 {
        match self {
            WindowState::Count(_) | WindowState::Distinct(_) | WindowState::FirstSeen(_) => self.len() as u64,
            WindowState::Sum(series) => series.total(),
            WindowState::Ratio(both) if both.0.len() == 0 => 0,
            WindowState::Ratio(_) => u64::MAX,
        }
    }

    /// Until when, `before` at the latest, it last held, or will have held, `hold`.
    pub(crate) fn until(&self, frame: &TermSpec, hold: u64, before: Time) -> HoldsUntil {
        let until = match self {
            WindowState::Count(times) => times.until(&frame.shape, hold, before),
            WindowState::Sum(series) => series.until(&frame.shape, hold, before),
            WindowState::Ratio(_) => return HoldsUntil::Undecided,
            WindowState::Distinct(ends) => ends.until(&frame.shape, hold, before),
            WindowState::FirstSeen(sightings) => sightings.until(&frame.shape, hold, before),
        };
        until.map_or(HoldsUntil::Never, HoldsUntil::At)
    }

    /// The first event time after `after` at which there are `need`: of a count, wherever in the past.
    pub(crate) fn decided(&self, frame: &TermSpec, need: u64, after: Option<Time>) -> Option<Time> {
        match self {
            WindowState::Count(times) => times.decided(&frame.shape, need, after),
            _ => None,
        }
    }

    /// When the numerator of a ratio is empty.
    pub(crate) fn empties(&self, frame: &TermSpec) -> Option<Time> {
        match self {
            WindowState::Ratio(both) => both.0.newest().map(|newest| frame.shape.leaves(newest)),
            _ => None,
        }
    }

    /// Adds the event times from `since` on, at which what a window holds may have become more.
    pub(crate) fn moments(&self, since: Time, moments: &mut Vec<Time>) {
        let later = |time: &Time| *time > since;
        match self {
            WindowState::Count(times) => moments.extend(times.newest_first().take_while(later)),
            WindowState::Sum(series) => moments.extend(series.newest_first().take_while(later)),
            WindowState::Ratio(both) => {
                moments.extend(both.0.newest_first().take_while(later));
                moments.extend(both.1.newest_first().take_while(later));
            }
            WindowState::Distinct(ends) => moments.extend(ends.newest_first().take_while(later)),
            WindowState::FirstSeen(sightings) => moments.extend(sightings.moments().filter(later)),
        }
    }

    /// Reads something of what it has allocated.
    pub(crate) fn touch(&self) -> u64 {
        let newest = match self {
            WindowState::Count(times) => times.newest_first().next(),
            WindowState::Sum(series) => series.newest(),
            WindowState::Ratio(both) => both.0.newest().max(both.1.newest()),
            WindowState::Distinct(ends) => ends.newest_first().next(),
            WindowState::FirstSeen(sightings) => sightings.newest(),
        };
        newest.map_or(0, Time::as_nanos)
    }

    /// Returns the bytes that it has allocated.
    pub(crate) fn heap(&self) -> usize {
        match self {
            WindowState::Count(times) => times.heap(),
            WindowState::Sum(series) => series.heap(),
            WindowState::Ratio(both) => size_of_val(&**both) + both.0.heap() + both.1.heap(),
            WindowState::Distinct(ends) => ends.heap(),
            WindowState::FirstSeen(sightings) => sightings.heap(),
        }
    }

    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        match self {
            WindowState::Count(times) => times.len(),
            WindowState::Sum(series) => series.len(),
            WindowState::Ratio(both) => both.0.len() + both.1.len(),
            WindowState::Distinct(ends) => ends.len(),
            WindowState::FirstSeen(sightings) => sightings.len(),
        }
    }
}

/// Never over: the numerator counts what is wholly inside of the window, the denominator what touches it.
fn ratio(of: &SumWindow, to: &SumWindow, frame: &TermSpec, time: Time) -> u64 {
    let (of, to) = (of.within(&frame.shape, time), to.touching(&frame.shape, time));
    let parts = u128::from(of) * u128::from(Thresholds::PARTS);
    parts.checked_div(u128::from(to)).map_or(0, |parts| parts.min(u128::from(Thresholds::PARTS)) as u64)
}
