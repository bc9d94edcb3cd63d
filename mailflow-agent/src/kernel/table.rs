//! The flow table, read: from the kernel's counters to flows with times.
//!
//! An entry's sums go on when its tuple carries another flow; what they were at that moment lies in
//! the table of finished flows. Here they are told apart again: a flow is what its entry gained since
//! the one before it on the same tuple.

use std::collections::HashMap;

use aya::maps::MapData;
use mailflow_common::{DirectionCounters, FlowCounters, FlowKey, RetiredKey};

use super::{
    batch::{self, Then, Walker},
    error::KernelError,
    ticks::Ticks,
};
use crate::engine::{
    flow::{Direction, Finished, Flow},
    time::Time,
};

/// One reading.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// Flows whose tuple carries another one by now, each tuple's in their order.
    pub finished: &'a [Finished],
    /// Flows in the table.
    pub flows: &'a [Flow],
}

/// The last reading of the flow table; its memory is used again for the next.
pub(super) struct Table {
    walker: Walker<FlowKey, FlowCounters>,
    retired: Walker<RetiredKey, FlowCounters>,
    flows: Vec<Flow>,
    finished: Vec<Finished>,
    /// Of tuples that were used again: the entry's sums when the flow before was finished.
    bases: HashMap<FlowKey, FlowCounters>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            walker: Walker::new(),
            retired: Walker::new(),
            flows: Vec::new(),
            finished: Vec::new(),
            bases: HashMap::new(),
        }
    }

    /// Reads the living first: one that is finished before the finished are read is then in both, and
    /// left out of the living.
    pub(super) fn read(
        &mut self,
        flows: &MapData,
        retired: &MapData,
        ticks: &Ticks,
        now: Time,
    ) -> Result<Snapshot<'_>, KernelError> {
        let (living, bases) = (&mut self.flows, &self.bases);
        living.clear();
        self.walker
            .walk(flows.fd(), Then::Keep, |key, counters| {
                living.push(flow(key, counters, bases.get(key), ticks, now));
            })
            .map_err(KernelError::Table)?;
        self.finished.clear();
        let mut ended = self.drain(retired)?;
        // What was read of these tuples is of no use: they are looked up again, until none of them is
        // finished once more meanwhile.
        while !ended.is_empty() {
            let mut living = HashMap::new();
            for (key, _) in &ended {
                living.insert(key.flow, batch::look_up(flows.fd(), &key.flow).map_err(KernelError::Table)?);
            }
            let more = self.drain(retired)?;
            if more.is_empty() {
                self.tell_apart(ended, &living, ticks, now);
                break;
            }
            ended.extend(more);
        }
        Ok(Snapshot { finished: &self.finished, flows: &self.flows })
    }

    fn drain(&mut self, retired: &MapData) -> Result<Vec<(RetiredKey, FlowCounters)>, KernelError> {
        let mut ended = Vec::new();
        self.retired
            .walk(retired.fd(), Then::Delete, |key, counters| ended.push((*key, *counters)))
            .map_err(KernelError::Table)?;
        Ok(ended)
    }

    /// Makes flows of what the entries of some tuples were, one after the other, and are.
    fn tell_apart(
        &mut self,
        mut ended: Vec<(RetiredKey, FlowCounters)>,
        living: &HashMap<FlowKey, Option<FlowCounters>>,
        ticks: &Ticks,
        now: Time,
    ) {
        ended.sort_by_key(|(key, _)| key.first);
        let mut chains: HashMap<FlowKey, Vec<Finished>> = HashMap::new();
        for (key, counters) in ended {
            let base = self.bases.insert(key.flow, counters);
            let flow = flow(&key.flow, &counters, base.as_ref(), ticks, now);
            let chain = chains.entry(key.flow).or_default();
            if let Some(before) = chain.last_mut() {
                before.replaced = flow.first;
            }
            chain.push(Finished { flow, replaced: now });
        }
        self.flows.retain(|flow| !chains.contains_key(&flow.key));
        for (key, mut chain) in chains {
            match living.get(&key).copied().flatten() {
                Some(counters) => {
                    let living = flow(&key, &counters, self.bases.get(&key), ticks, now);
                    if let Some(last) = chain.last_mut() {
                        last.replaced = living.first;
                    }
                    self.flows.push(living);
                }
                None => drop(self.bases.remove(&key)),
            }
            self.finished.extend(chain);
        }
    }

    /// Takes `keys` out of the table with their last values.
    pub(super) fn take(
        &mut self,
        map: &MapData,
        keys: &[FlowKey],
        ticks: &Ticks,
        now: Time,
    ) -> Result<Vec<Flow>, KernelError> {
        let mut flows = Vec::with_capacity(keys.len());
        for key in keys {
            let counters = batch::take(map.fd(), key).map_err(KernelError::Table)?;
            let base = self.bases.remove(key);
            if let Some(counters) = counters {
                flows.push(flow(key, &counters, base.as_ref(), ticks, now));
            }
        }
        Ok(flows)
    }
}

/// A flow: its entry's sums less those of the flows before it.
fn flow(
    key: &FlowKey,
    counters: &FlowCounters,
    base: Option<&FlowCounters>,
    ticks: &Ticks,
    now: Time,
) -> Flow {
    let direction = |counters: &DirectionCounters, base: Option<&DirectionCounters>| {
        let base = base.copied().unwrap_or_default();
        let packets = counters.packets.wrapping_sub(base.packets);
        Direction {
            packets,
            bytes: counters.bytes.wrapping_sub(base.bytes),
            payload: counters.payload.wrapping_sub(base.payload),
            data_packets: u64::from(counters.data_packets.wrapping_sub(base.data_packets)),
            data_bytes: counters.data_bytes.wrapping_sub(base.data_bytes),
            last: (packets != 0).then(|| ticks.time_of_word(counters.last, now)),
        }
    };
    Flow {
        key: *key,
        up: direction(&counters.up, base.map(|base| &base.up)),
        down: direction(&counters.down, base.map(|base| &base.down)),
        first: ticks.time(counters.first),
        messages: counters.messages.wrapping_sub(base.map_or(0, |base| base.messages)),
        mac: (counters.mac != [0; 6]).then_some(counters.mac),
        facts: counters.facts,
    }
}
