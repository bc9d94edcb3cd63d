//! The flow table, read: from the kernel's counters to flows with times.

use aya::maps::MapData;
use mailflow_common::{DirectionCounters, FlowCounters, FlowKey};

use super::{
    batch::{self, Walker},
    error::KernelError,
    ticks::Ticks,
};
use crate::engine::{
    flow::{Direction, Flow},
    time::Time,
};

/// The last reading of the flow table; its memory is used again for the next.
pub(super) struct Table {
    walker: Walker<FlowKey, FlowCounters>,
    flows: Vec<Flow>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { walker: Walker::new(), flows: Vec::new() }
    }

    pub(super) fn read(&mut self, map: &MapData, ticks: &Ticks, now: Time) -> Result<&[Flow], KernelError> {
        let flows = &mut self.flows;
        flows.clear();
        self.walker
            .walk(map.fd(), |key, counters| flows.push(flow(key, counters, ticks, now)))
            .map_err(KernelError::Table)?;
        Ok(flows)
    }
}

/// Takes `keys` out of the table with their last values.
pub(super) fn take(
    map: &MapData,
    keys: &[FlowKey],
    ticks: &Ticks,
    now: Time,
) -> Result<Vec<Flow>, KernelError> {
    let mut flows = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(counters) = batch::take(map.fd(), key).map_err(KernelError::Table)? {
            flows.push(flow(key, &counters, ticks, now));
        }
    }
    Ok(flows)
}

fn flow(key: &FlowKey, counters: &FlowCounters, ticks: &Ticks, now: Time) -> Flow {
    let direction = |counters: &DirectionCounters| Direction {
        packets: counters.packets,
        bytes: counters.bytes,
        payload: counters.payload,
        data_packets: u64::from(counters.data_packets),
        data_bytes: counters.data_bytes,
        last: (counters.packets != 0).then(|| ticks.time_of_word(counters.last, now)),
    };
    Flow {
        key: *key,
        up: direction(&counters.up),
        down: direction(&counters.down),
        first: ticks.time(counters.first),
        messages: counters.messages,
        mac: (counters.mac != [0; 6]).then_some(counters.mac),
        facts: counters.facts,
    }
}
