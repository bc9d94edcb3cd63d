//! The records of several logs as one history, in an order that does not depend on that of the lines.
//!
//! [`History`] holds all of its records in memory; [`Sorter`] sorts those of logs of any size in bounded memory, and
//! gives the same order.

mod encoding;
mod merge;
mod run;
mod sorter;

use std::{cmp::Ordering, collections::HashMap, time::Duration};

pub use self::{
    merge::Sorted,
    sorter::{Limits, Part, Sorter},
};
use super::{Entry, Origin};
use mailflow_engine::{
    flow::{Direction, FlowRecord, RecordReason, facts_bytes},
    settings::Timeouts,
    time::Time,
};

/// When the agent makes records.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// When flows end.
    pub timeouts: Timeouts,
    /// How often the agent looks.
    pub poll_interval: Duration,
}

/// A record and the moment at which the rules see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// The moment.
    pub at: Time,
    /// The record.
    pub record: FlowRecord,
}

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

impl Arrival {
    /// The order in which the rules see records; equal ones stand beside each other.
    fn order(&self, other: &Self) -> Ordering {
        let moments = |arrival: &Self| (arrival.at, arrival.record.time());
        moments(self).cmp(&moments(other)).then_with(|| rank(&self.record).cmp(&rank(&other.record)))
    }
}

impl Rhythm {
    /// Returns when the rules see a record, unless others move it, and the latest moment of which it tells.
    fn arrival(&self, Entry { record, origin }: Entry) -> (Arrival, Time) {
        let at = match origin {
            Origin::Mailflow => self.made(&record),
            Origin::Suricata | Origin::Zeek => record.time(),
        };
        // When the agent was stopped is not known: not before any other moment that is.
        let known = if record.reason == RecordReason::Shutdown { record.time() } else { at };
        (Arrival { at, record }, known)
    }

    /// When the agent made its record.
    fn made(&self, record: &FlowRecord) -> Time {
        let (flow, last) = (&record.flow, record.time());
        let Timeouts { closed, idle, unanswered, active } = self.timeouts;
        match record.reason {
            RecordReason::Closed => last + closed,
            RecordReason::Idle if flow.facts.unanswered() => last + unanswered.min(idle),
            // Of a stopped agent's, this is after all that ended before.
            RecordReason::Idle | RecordReason::Shutdown => last + idle,
            RecordReason::Active => {
                let active = active.max(Duration::from_nanos(1)).as_nanos();
                let age = last.since(flow.first).as_nanos();
                // Just after the interval these packets were among what was seen then.
                if age >= active && age % active <= self.poll_interval.as_nanos() {
                    return last;
                }
                let next = (age / active + 1).saturating_mul(active);
                flow.first + Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX))
            }
        }
    }
}

/// Of one moment: the lower client goes first, then the lower server, and of one flow the record that
/// was made first.
fn rank(record: &FlowRecord) -> impl Ord + use<> {
    let flow = &record.flow;
    let key = &flow.key;
    let ends = (key.client.ip(), key.client_port, key.server.ip(), key.server_port);
    let scope = (key.scope.protocol(), key.scope.vlans().tags().collect::<Vec<_>>());
    let last = record.reason != RecordReason::Active;
    let way = |way: &Direction| [way.packets, way.bytes, way.payload, way.data_packets, way.data_bytes];
    let counters = (way(&flow.up), way(&flow.down), flow.messages, flow.rejected);
    let rest = (record.app, record.reason.name(), record.complete, record.inputs, flow.mac);
    let facts = facts_bytes(&flow.facts);
    (ends, scope, flow.first, last, counters, rest, facts, flow.up.last, flow.down.last)
}
