//! The records of several logs as one history, in an order that does not depend on that of the lines.
//!
//! [`History`] holds all of its records in memory; [`Sorter`] sorts those of logs of any size in bounded memory, and
//! gives the same order.

mod arrival;
mod encoding;
mod merge;
mod run;
mod sorter;

use std::collections::HashMap;

pub use self::{
    arrival::{Arrival, Rhythm},
    merge::Sorted,
    sorter::{Limits, Part, Sorter},
};
use super::Entry;
use mailflow_engine::{flow::RecordReason, time::Time};

/// Records on their way into their order.
///
/// Other tools' records are seen at their event time. The agent's own are seen when it made them: a
/// flow's record comes once the flow has been silent for long enough, and so the same records give the
/// same alerts again. A rule's window is one of event time either way.
#[derive(Debug)]
pub struct History {
    rhythm: Rhythm,
    arrivals: Vec<Arrival>,
    /// The latest moment of which a record tells.
    end: Time,
}

impl History {
    /// Without any record yet.
    pub fn new(rhythm: Rhythm) -> Self {
        Self { rhythm, arrivals: Vec::new(), end: Time::ZERO }
    }

    /// Adds a record.
    pub fn push(&mut self, entry: Entry) {
        let (arrival, known) = self.rhythm.arrival(entry);
        self.end = self.end.max(known);
        self.arrivals.push(arrival);
    }

    /// The history's end: no record tells of a later moment.
    pub fn end(&self) -> Time {
        self.end
    }

    /// The records in their order, and how many were left out as they stand in the logs twice.
    pub fn ordered(mut self) -> (Vec<Arrival>, u64) {
        actives_before_ends(&mut self.arrivals);
        for arrival in &mut self.arrivals {
            arrival.at = arrival.at.min(self.end);
        }
        self.arrivals.sort_unstable_by(Arrival::order);
        let before = self.arrivals.len();
        self.arrivals.dedup_by(|one, other| one.at == other.at && one.record == other.record);
        let repeated = (before - self.arrivals.len()) as u64;
        (self.arrivals, repeated)
    }
}

/// A flow's active records were made before its last one, also where the agent that made them did so at other
/// intervals than are configured here: seen after it, they would be another flow's.
fn actives_before_ends(arrivals: &mut [Arrival]) {
    let flow = |arrival: &Arrival| (arrival.record.flow.key, arrival.record.flow.first);
    let active = |arrival: &Arrival| arrival.record.reason == RecordReason::Active;
    let lives = arrivals.iter().filter(|arrival| active(arrival));
    let mut ends: HashMap<_, Option<Time>> = lives.map(|arrival| (flow(arrival), None)).collect();
    for arrival in arrivals.iter().filter(|arrival| !active(arrival)) {
        if let Some(end) = ends.get_mut(&flow(arrival)) {
            *end = Some(end.map_or(arrival.at, |end| end.min(arrival.at)));
        }
    }
    for arrival in arrivals.iter_mut().filter(|arrival| active(arrival)) {
        if let Some(Some(end)) = ends.get(&flow(arrival)) {
            arrival.at = arrival.at.min(*end);
        }
    }
}
