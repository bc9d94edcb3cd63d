//! Times at which the rules evaluate records, and the order of records.

use crate::offline::flowlog::{LogOrigin, LogRecord};
use mailflow_engine::{
    checkpoint::codec::facts_bytes,
    flow::{DirectionStats, FlowRecord, RecordReason},
    settings::Timeouts,
    time::Time,
};
use std::{cmp::Ordering, time::Duration};

/// Returns the order of records of one time: by client, then by server, and of one flow the earlier record
/// first.
pub(crate) fn tie_breaker(record: &FlowRecord) -> impl Ord + use<> {
    let flow = &record.flow;
    let key = &flow.key;
    let endpoints = (key.client.ip(), key.client_port, key.server.ip(), key.server_port);
    let scope = (key.scope.protocol(), key.scope.vlans().tags().collect::<Vec<_>>());
    let last = record.reason != RecordReason::Active;
    let direction = |direction: &DirectionStats| {
        [direction.packets, direction.bytes, direction.payload, direction.data_packets, direction.data_bytes]
    };
    let counters = (direction(&flow.up), direction(&flow.down), flow.messages, flow.rejected);
    let remaining = (record.app, record.reason.name(), record.complete, record.fields, flow.mac);
    let facts = facts_bytes(&flow.facts);
    (endpoints, scope, flow.first, last, counters, remaining, facts, flow.up.last, flow.down.last)
}

/// Timing of the agent's records.
#[derive(Clone, Copy, Debug)]
pub struct RecordTiming {
    /// Timeouts that end flows.
    pub timeouts: Timeouts,
    /// Poll interval of the agent.
    pub poll_interval: Duration,
}

impl RecordTiming {
    /// Returns the record with its time of evaluation, which other records may still move, and the latest
    /// time that is known from it.
    pub(crate) fn schedule(&self, LogRecord { record, origin }: LogRecord) -> (TimedRecord, Time) {
        let at = match origin {
            LogOrigin::Mailflow => self.created_at(&record),
            LogOrigin::Suricata | LogOrigin::Zeek => record.time(),
        };
        // The time of the agent's shutdown is unknown. It is no earlier than any other known time.
        let latest = if record.reason == RecordReason::Shutdown { record.time() } else { at };
        (TimedRecord { at, record }, latest)
    }

    /// Returns the time at which the agent created its record.
    fn created_at(&self, record: &FlowRecord) -> Time {
        let (flow, last) = (&record.flow, record.time());
        let Timeouts { closed, idle, unanswered, active } = self.timeouts;
        match record.reason {
            RecordReason::Closed => last + closed,
            RecordReason::Idle if flow.facts.unanswered() => last + unanswered.min(idle),
            // For a record of a shutdown this is after the flows that ended before.
            RecordReason::Idle | RecordReason::Shutdown => last + idle,
            RecordReason::Active => {
                let active = active.max(Duration::from_nanos(1)).as_nanos();
                let age = last.since(flow.first).as_nanos();
                // The flow was polled just after the end of the interval, and the record contains these
                // packets.
                if age >= active && age % active <= self.poll_interval.as_nanos() {
                    return last;
                }
                let next = (age / active + 1).saturating_mul(active);
                flow.first + Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX))
            }
        }
    }
}

/// Record, with the time at which the rules evaluate it.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedRecord {
    /// Time of evaluation.
    pub at: Time,
    /// Flow record.
    pub record: FlowRecord,
}

impl TimedRecord {
    /// Compares records by the order of evaluation. Equal records become neighbours.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let times = |record: &Self| (record.at, record.record.time());
        times(self)
            .cmp(&times(other))
            .then_with(|| tie_breaker(&self.record).cmp(&tie_breaker(&other.record)))
    }
}
