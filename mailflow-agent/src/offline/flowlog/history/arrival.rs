//! Records with the moments at which the rules see them, and their order.

use crate::offline::flowlog::{Entry, Origin};
use mailflow_engine::{
    flow::{DirectionStats, FlowRecord, RecordReason, facts_bytes},
    settings::Timeouts,
    time::Time,
};
use std::{cmp::Ordering, time::Duration};

/// Of one moment: the lower client goes first, then the lower server, and of one flow the record that
/// was made first.
pub(crate) fn rank(record: &FlowRecord) -> impl Ord + use<> {
    let flow = &record.flow;
    let key = &flow.key;
    let ends = (key.client.ip(), key.client_port, key.server.ip(), key.server_port);
    let scope = (key.scope.protocol(), key.scope.vlans().tags().collect::<Vec<_>>());
    let last = record.reason != RecordReason::Active;
    let way = |way: &DirectionStats| [way.packets, way.bytes, way.payload, way.data_packets, way.data_bytes];
    let counters = (way(&flow.up), way(&flow.down), flow.messages, flow.rejected);
    let rest = (record.app, record.reason.name(), record.complete, record.fields, flow.mac);
    let facts = facts_bytes(&flow.facts);
    (ends, scope, flow.first, last, counters, rest, facts, flow.up.last, flow.down.last)
}

/// When the agent makes records.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// When flows end.
    pub timeouts: Timeouts,
    /// How often the agent looks.
    pub poll_interval: Duration,
}

impl Rhythm {
    /// Returns when the rules see a record, unless others move it, and the latest moment of which it tells.
    pub(crate) fn arrival(&self, Entry { record, origin }: Entry) -> (Arrival, Time) {
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

/// A record and the moment at which the rules see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// The moment.
    pub at: Time,
    /// The record.
    pub record: FlowRecord,
}

impl Arrival {
    /// The order in which the rules see records; equal ones stand beside each other.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let moments = |arrival: &Self| (arrival.at, arrival.record.time());
        moments(self).cmp(&moments(other)).then_with(|| rank(&self.record).cmp(&rank(&other.record)))
    }
}
