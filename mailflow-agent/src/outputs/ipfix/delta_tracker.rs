//! Conversion of cumulative records to deltas since the previous record.

use std::{collections::HashMap, time::Duration};

use mailflow_common::FlowKey;

use mailflow_engine::{
    event::CounterDelta,
    flow::{DirectionStats, FlowRecord, RecordReason},
    time::Time,
};

/// Age of the last record after which a flow counts as ended, and its final record as lost.
const LOST_FLOW_AGE: Duration = Duration::from_secs(24 * 3_600);
/// Number of flows from which on lost flows are removed.
const MIN_FLOWS_FOR_SWEEP: usize = 65_536;

/// Exported totals of the flows that have not ended.
#[derive(Debug, Default)]
pub(crate) struct DeltaTracker {
    exported: HashMap<(FlowKey, Time), ExportedTotals>,
    next_sweep: usize,
}

/// Totals of a flow at its last record.
#[derive(Clone, Copy, Debug)]
struct ExportedTotals {
    up: CounterDelta,
    down: CounterDelta,
    time: Time,
}

/// Delta of a flow: client to server, and server to client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BiflowDelta {
    pub(crate) up: CounterDelta,
    pub(crate) down: CounterDelta,
}

impl DeltaTracker {
    /// Returns the delta since the previous record of the same flow.
    pub(crate) fn of(&mut self, record: &FlowRecord) -> BiflowDelta {
        let flow = &record.flow;
        let key = (flow.key, flow.first);
        let (up, down) = (totals(&flow.up), totals(&flow.down));
        let previous = if record.reason == RecordReason::Active {
            let previous = self.exported.insert(key, ExportedTotals { up, down, time: record.time() });
            self.sweep(record.time());
            previous
        } else {
            self.exported.remove(&key)
        };
        let (previous_up, previous_down) =
            previous.map_or_else(Default::default, |previous| (previous.up, previous.down));
        BiflowDelta { up: subtract(up, previous_up), down: subtract(down, previous_down) }
    }

    /// Removes lost flows if there are many flows.
    fn sweep(&mut self, now: Time) {
        if self.exported.len() > self.next_sweep.max(MIN_FLOWS_FOR_SWEEP) {
            self.exported.retain(|_, exported| now.since(exported.time) < LOST_FLOW_AGE);
            self.next_sweep = self.exported.len() * 2;
        }
    }
}

fn totals(direction: &DirectionStats) -> CounterDelta {
    CounterDelta { packets: direction.packets, bytes: direction.bytes }
}

fn subtract(now: CounterDelta, previous: CounterDelta) -> CounterDelta {
    CounterDelta {
        packets: now.packets.saturating_sub(previous.packets),
        bytes: now.bytes.saturating_sub(previous.bytes),
    }
}
