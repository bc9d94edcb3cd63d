//! Pending records: records that the rules evaluate at the next tick.
//!
//! A tick may have millions of them. So the records lie in one vector and do not move; their sort keys are sorted.

use std::{hint::black_box, net::IpAddr};

use mailflow_common::FlowKey;

use super::rule_mask::RuleMask;
use crate::{
    flow::{Flow, FlowRecord, phase::RecordPhase},
    time::Time,
};

/// Capacity that is retained between ticks, in records.
const RETAINED_RECORDS: usize = 1 << 12;

/// Records that are prefetched together.
const PREFETCH_RECORDS: usize = 16;

/// Record that is ready for evaluation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingRecord<'a> {
    /// Time of evaluation, not before the event time.
    pub(crate) at: Time,
    pub(crate) phase: RecordPhase,
    /// Rules that match the flow.
    pub(crate) mask: RuleMask,
    pub(crate) record: &'a FlowRecord,
}

/// Record that the rules evaluated, or will evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInput<'a> {
    /// Time of evaluation.
    pub at: Time,
    /// Record.
    pub record: &'a FlowRecord,
    /// True if this is a live update of an open flow, not a flow record.
    pub live: bool,
}

/// Records that the rules evaluate at the next tick, or evaluated at the last one.
#[derive(Debug, Default)]
pub(crate) struct PendingRecords {
    records: Vec<FlowRecord>,
    order: Vec<SortKey>,
    /// True if the rules have evaluated the records.
    is_evaluated: bool,
}

/// Sort key of a pending record.
#[derive(Clone, Copy, Debug)]
struct SortKey {
    at: Time,
    time: Time,
    /// First part of the tie-breaker, see [`order_prefix`].
    endpoints: u64,
    mask: RuleMask,
    record: u32,
    phase: RecordPhase,
}

impl PendingRecords {
    /// Adds a record. Removes records that the rules have evaluated.
    pub(crate) fn push(&mut self, at: Time, phase: RecordPhase, mask: RuleMask, record: FlowRecord) {
        if self.is_evaluated {
            self.clear();
        }
        let time = record.time();
        let (at, endpoints) = (at.max(time), order_prefix(&record.flow.key));
        self.order.push(SortKey { at, time, endpoints, mask, record: self.records.len() as u32, phase });
        self.records.push(record);
    }

    /// Sorts the records for evaluation: by time of evaluation, then event time, client address and port, server
    /// address and port. Removes the records of the previous tick.
    pub(crate) fn sort(&mut self) {
        if self.is_evaluated {
            self.clear();
        }
        self.is_evaluated = true;
        let Self { records, order, .. } = self;
        order.sort_unstable_by(|one, other| {
            let of = |sort_key: &SortKey| (sort_key.at, sort_key.time, sort_key.endpoints);
            of(one).cmp(&of(other)).then_with(|| {
                let [one, other] = [one, other].map(|sort_key| records.get(sort_key.record as usize));
                one.map(endpoints).cmp(&other.map(endpoints))
            })
        });
    }

    /// Returns the records that are being evaluated, or were evaluated last, in order.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = PendingRecord<'_>> {
        let order = if self.is_evaluated { self.order.as_slice() } else { &[] };
        order.iter().enumerate().filter_map(|(position, sort_key)| {
            if position % PREFETCH_RECORDS == 0 {
                self.prefetch(position);
            }
            let SortKey { at, mask, record, phase, .. } = *sort_key;
            Some(PendingRecord { at, phase, mask, record: self.records.get(record as usize)? })
        })
    }

    /// Prefetches the next records, so that their cache misses overlap.
    fn prefetch(&self, from: usize) {
        let next = self.order.iter().skip(from).take(PREFETCH_RECORDS);
        let mut all = 0;
        for record in next.filter_map(|sort_key| self.records.get(sort_key.record as usize)) {
            // One word of each cache line of the record, whatever its alignment.
            let FlowRecord { flow, complete, .. } = record;
            all ^= flow.up.packets ^ flow.up.data_bytes ^ flow.down.bytes;
            all ^= u64::from(flow.key.client_port) ^ u64::from(flow.facts.syn) ^ u64::from(*complete);
            all ^= flow.last().as_nanos();
        }
        black_box(all);
    }

    /// Returns the records that the rules have not evaluated.
    pub(crate) fn unevaluated(&self) -> impl Iterator<Item = RuleInput<'_>> {
        let order = if self.is_evaluated { [].as_slice() } else { &self.order };
        order.iter().filter_map(|sort_key| {
            let record = self.records.get(sort_key.record as usize)?;
            Some(RuleInput { at: sort_key.at, record, live: sort_key.phase == RecordPhase::Live })
        })
    }

    /// Removes a record that the rules have evaluated in a replay.
    pub(crate) fn remove(&mut self, at: Time, phase: RecordPhase, flow: &Flow) {
        let Self { records, order, is_evaluated } = self;
        order.retain(|sort_key| {
            let of = |record: &FlowRecord| (record.flow.key, record.flow.first) == (flow.key, flow.first);
            let same = || records.get(sort_key.record as usize).is_some_and(of);
            *is_evaluated || (sort_key.at, sort_key.phase) != (at, phase) || !same()
        });
    }

    /// Returns the evaluated records in order, as rule inputs.
    pub(crate) fn rule_inputs(&self) -> impl Iterator<Item = RuleInput<'_>> {
        let input = |PendingRecord { at, phase, record, .. }| RuleInput {
            at,
            record,
            live: phase == RecordPhase::Live,
        };
        self.in_order().map(input)
    }

    fn clear(&mut self) {
        // The capacity stays until the next tick, so that a continuing flood need not allocate again.
        let capacity = self.records.len().max(RETAINED_RECORDS);
        self.records.clear();
        self.order.clear();
        self.records.shrink_to(capacity);
        self.order.shrink_to(capacity);
        self.is_evaluated = false;
    }
}

fn endpoints(record: &FlowRecord) -> impl Ord + use<> {
    let key = &record.flow.key;
    (key.client.ip(), key.client_port, key.server.ip(), key.server_port)
}

/// Returns the first bits of [`endpoints`] as a number. A lower number sorts earlier; equal numbers need the full
/// comparison.
fn order_prefix(key: &FlowKey) -> u64 {
    match key.client.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()) << 16 | u64::from(key.client_port),
        IpAddr::V6(ip) => 1 << 63 | (ip.to_bits() >> 65) as u64,
    }
}
