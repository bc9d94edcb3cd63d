//! From cumulative records to what a flow gained since the last one.

use std::{collections::HashMap, time::Duration};

use mailflow_common::FlowKey;

use mailflow_engine::{
    event::CounterDelta,
    flow::{DirectionStats, FlowRecord, RecordReason},
    time::Time,
};

/// A flow of which no record came for so long has ended, and its last record was lost.
const LOST: Duration = Duration::from_secs(24 * 3_600);
/// Flows at which it is first looked for such.
const MANY: usize = 65_536;

/// What was exported of the flows that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Gains {
    exported: HashMap<(FlowKey, Time), Exported>,
    next_sweep: usize,
}

#[derive(Clone, Copy, Debug)]
struct Exported {
    up: CounterDelta,
    down: CounterDelta,
    time: Time,
}

/// What a flow gained: client to server, and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Both {
    pub(crate) up: CounterDelta,
    pub(crate) down: CounterDelta,
}

impl Gains {
    /// The gain since the last record of the same flow.
    pub(crate) fn of(&mut self, record: &FlowRecord) -> Both {
        let flow = &record.flow;
        let key = (flow.key, flow.first);
        let (up, down) = (sum(&flow.up), sum(&flow.down));
        let before = if record.reason == RecordReason::Active {
            let before = self.exported.insert(key, Exported { up, down, time: record.time() });
            self.sweep(record.time());
            before
        } else {
            self.exported.remove(&key)
        };
        let (was_up, was_down) = before.map_or_else(Default::default, |before| (before.up, before.down));
        Both { up: less(up, was_up), down: less(down, was_down) }
    }

    fn sweep(&mut self, now: Time) {
        if self.exported.len() > self.next_sweep.max(MANY) {
            self.exported.retain(|_, exported| now.since(exported.time) < LOST);
            self.next_sweep = self.exported.len() * 2;
        }
    }
}

fn sum(direction: &DirectionStats) -> CounterDelta {
    CounterDelta { packets: direction.packets, bytes: direction.bytes }
}

fn less(now: CounterDelta, before: CounterDelta) -> CounterDelta {
    CounterDelta {
        packets: now.packets.saturating_sub(before.packets),
        bytes: now.bytes.saturating_sub(before.bytes),
    }
}
