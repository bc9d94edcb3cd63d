//! What a rule remembers of one subject, term by term: in bounded memory, and what that costs in exactness
//! is written at the top of each kind.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    count::Times,
    distinct::{Ends, Mark},
    first_seen::Sightings,
    spec::Shape,
    sum::Series,
    value::Value,
};
use crate::{
    rule::{Level, Measure},
    time::Time,
};

/// What is remembered for one term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Store {
    /// Of a count.
    Times(Times),
    /// Of a sum.
    Series(Series),
    /// Of a ratio: numerator and denominator.
    Ratio(Box<(Series, Series)>),
    /// Of distinct ends.
    Ends(Ends),
    /// Of ends seen for the first time.
    Sightings(Sightings),
}

/// A term as its stores see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) measure: Measure,
    pub(crate) shape: Shape,
    /// The highest threshold of any subject.
    pub(crate) need: u64,
    /// When the rule has watched for long enough to tell what is new.
    pub(crate) learnt: Time,
}

impl Frame {
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
pub(crate) enum Until {
    /// It never did.
    Never,
    /// Until then.
    Then(Time),
    /// It does not decide that.
    Whatever,
}

/// What one event adds to a term.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gain {
    /// One more.
    One,
    /// An amount.
    Amount(u64),
    /// One above, one below the line, or both.
    Parts(u64, u64),
    /// Seen with this end.
    With(Mark),
}

impl Store {
    /// An empty one for `measure`.
    pub(crate) fn new(measure: Measure) -> Self {
        match measure {
            Measure::Count(_) => Store::Times(Times::default()),
            Measure::Sum(_) => Store::Series(Series::default()),
            Measure::Ratio { .. } => Store::Ratio(Box::default()),
            Measure::Distinct { .. } => Store::Ends(Ends::default()),
            Measure::FirstSeen { .. } => Store::Sightings(Sightings::default()),
        }
    }

    /// Adds what an event at `time` gave, while the clock is at `clock`.
    pub(crate) fn add(&mut self, frame: &Frame, clock: Time, time: Time, gain: Gain) {
        match (self, gain) {
            (Store::Times(times), _) => times.add(&frame.shape, clock, time),
            (Store::Series(series), Gain::Amount(amount)) => series.add(&frame.shape, clock, time, amount),
            (Store::Ratio(both), Gain::Parts(of, to)) => {
                for (series, amount) in [(&mut both.0, of), (&mut both.1, to)] {
                    match amount {
                        0 => series.prune(&frame.shape, clock),
                        _ => series.add(&frame.shape, clock, time, amount),
                    }
                }
            }
            (Store::Ends(ends), Gain::With(end)) => ends.add(&frame.shape, frame.need, clock, time, end),
            (Store::Sightings(sightings), Gain::With(end)) => {
                if let Measure::FirstSeen { horizon, .. } = frame.measure {
                    sightings.add(&frame.shape, (horizon, frame.learnt), clock, time, end);
                }
            }
            (Store::Series(_) | Store::Ratio(_) | Store::Ends(_) | Store::Sightings(_), _) => {}
        }
    }

    /// Forgets what cannot matter at `clock` any more.
    pub(crate) fn prune(&mut self, frame: &Frame, clock: Time) {
        match self {
            Store::Times(times) => times.prune(&frame.shape, clock),
            Store::Series(series) => series.prune(&frame.shape, clock),
            Store::Ratio(both) => {
                both.0.prune(&frame.shape, clock);
                both.1.prune(&frame.shape, clock);
            }
            Store::Ends(ends) => ends.prune(&frame.shape, clock),
            Store::Sightings(sightings) => {
                if let Measure::FirstSeen { horizon, .. } = frame.measure {
                    sightings.prune(&frame.shape, horizon, clock);
                }
            }
        }
    }

    /// Returns when the newest event of the store, of a ratio of either part, cannot matter any more; `None` if it is
    /// empty.
    pub(crate) fn expires(&self, frame: &Frame) -> Option<Time> {
        let newest = match self {
            Store::Times(times) => times.newest_first().next(),
            Store::Series(series) => series.newest(),
            Store::Ratio(both) => match (both.0.newest(), both.1.newest()) {
                (Some(of), Some(to)) => Some(of.min(to)),
                (of, to) => of.or(to),
            },
            Store::Ends(ends) => ends.newest_first().next(),
            Store::Sightings(sightings) => sightings.newest(),
        };
        newest.map(|newest| newest + frame.retention())
    }

    /// Does so where [`Store::add`] would have: what is known of ends that were seen is longer, and stays.
    pub(crate) fn age(&mut self, frame: &Frame, clock: Time) {
        if !matches!(self, Store::Sightings(_)) {
            self.prune(frame, clock);
        }
    }

    /// Forgets events for which there is no room, once they were judged: under a threshold that was higher before
    /// there may be more than one, and the first of them decide.
    pub(crate) fn fit(&mut self, frame: &Frame) {
        if let Store::Times(times) = self {
            times.fit(&frame.shape);
        }
    }

    /// What the window that ends at `time` holds; of a ratio, in [`Level::PARTS`].
    pub(crate) fn value(&self, frame: &Frame, time: Time) -> Value {
        match self {
            Store::Times(times) => times.value(&frame.shape, time),
            Store::Series(series) => Value::Exactly(series.within(&frame.shape, time)),
            Store::Ratio(both) => Value::Exactly(ratio(&both.0, &both.1, frame, time)),
            Store::Ends(ends) => ends.value(&frame.shape, time),
            Store::Sightings(sightings) => sightings.value(&frame.shape, time),
        }
    }

    /// No window holds more than this, as far as that can be told at once.
    pub(crate) fn most(&self) -> u64 {
        match self {
            Store::Times(_) | Store::Ends(_) | Store::Sightings(_) => self.len() as u64,
            Store::Series(series) => series.total(),
            Store::Ratio(both) if both.0.len() == 0 => 0,
            Store::Ratio(_) => u64::MAX,
        }
    }

    /// Until when, `before` at the latest, it last held, or will have held, `hold`.
    pub(crate) fn until(&self, frame: &Frame, hold: u64, before: Time) -> Until {
        let until = match self {
            Store::Times(times) => times.until(&frame.shape, hold, before),
            Store::Series(series) => series.until(&frame.shape, hold, before),
            Store::Ratio(_) => return Until::Whatever,
            Store::Ends(ends) => ends.until(&frame.shape, hold, before),
            Store::Sightings(sightings) => sightings.until(&frame.shape, hold, before),
        };
        until.map_or(Until::Never, Until::Then)
    }

    /// The first event time after `after` at which there are `need`: of a count, wherever in the past.
    pub(crate) fn decided(&self, frame: &Frame, need: u64, after: Option<Time>) -> Option<Time> {
        match self {
            Store::Times(times) => times.decided(&frame.shape, need, after),
            _ => None,
        }
    }

    /// When the numerator of a ratio is empty.
    pub(crate) fn empties(&self, frame: &Frame) -> Option<Time> {
        match self {
            Store::Ratio(both) => both.0.newest().map(|newest| frame.shape.leaves(newest)),
            _ => None,
        }
    }

    /// Adds the event times from `since` on, at which what a window holds may have become more.
    pub(crate) fn moments(&self, since: Time, moments: &mut Vec<Time>) {
        let later = |time: &Time| *time > since;
        match self {
            Store::Times(times) => moments.extend(times.newest_first().take_while(later)),
            Store::Series(series) => moments.extend(series.newest_first().take_while(later)),
            Store::Ratio(both) => {
                moments.extend(both.0.newest_first().take_while(later));
                moments.extend(both.1.newest_first().take_while(later));
            }
            Store::Ends(ends) => moments.extend(ends.newest_first().take_while(later)),
            Store::Sightings(sightings) => moments.extend(sightings.moments().filter(later)),
        }
    }

    /// Reads something of what it has allocated.
    pub(crate) fn touch(&self) -> u64 {
        let newest = match self {
            Store::Times(times) => times.newest_first().next(),
            Store::Series(series) => series.newest(),
            Store::Ratio(both) => both.0.newest().max(both.1.newest()),
            Store::Ends(ends) => ends.newest_first().next(),
            Store::Sightings(sightings) => sightings.newest(),
        };
        newest.map_or(0, Time::as_nanos)
    }

    /// Returns the bytes that it has allocated.
    pub(crate) fn heap(&self) -> usize {
        match self {
            Store::Times(times) => times.heap(),
            Store::Series(series) => series.heap(),
            Store::Ratio(both) => size_of_val(&**both) + both.0.heap() + both.1.heap(),
            Store::Ends(ends) => ends.heap(),
            Store::Sightings(sightings) => sightings.heap(),
        }
    }

    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        match self {
            Store::Times(times) => times.len(),
            Store::Series(series) => series.len(),
            Store::Ratio(both) => both.0.len() + both.1.len(),
            Store::Ends(ends) => ends.len(),
            Store::Sightings(sightings) => sightings.len(),
        }
    }
}

/// Never over: the numerator counts what is wholly inside of the window, the denominator what touches it.
fn ratio(of: &Series, to: &Series, frame: &Frame, time: Time) -> u64 {
    let (of, to) = (of.within(&frame.shape, time), to.touching(&frame.shape, time));
    let parts = u128::from(of) * u128::from(Level::PARTS);
    parts.checked_div(u128::from(to)).map_or(0, |parts| parts.min(u128::from(Level::PARTS)) as u64)
}
