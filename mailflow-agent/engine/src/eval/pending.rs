//! Records on their way to the rules.
//!
//! There may be millions of them between two ticks, so they lie in one piece of memory, and what is put in
//! order is not they but their turns.

use std::{hint::black_box, net::IpAddr};

use mailflow_common::FlowKey;

use super::rule_mask::RuleMask;
use crate::{
    flow::{Flow, FlowRecord, phase::RecordPhase},
    time::Time,
};

/// Room that is kept from one tick to the next, in records.
const RETAINED_RECORDS: usize = 1 << 12;

/// Records that are brought into the caches together.
const PREFETCH_RECORDS: usize = 16;

/// A record as the rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingRecord<'a> {
    /// When it is their turn to see it; not before its event time.
    pub(crate) at: Time,
    pub(crate) phase: RecordPhase,
    /// The rules that count its flow.
    pub(crate) mask: RuleMask,
    pub(crate) record: &'a FlowRecord,
}

/// A record that the rules were shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInput<'a> {
    /// When.
    pub at: Time,
    /// The record.
    pub record: &'a FlowRecord,
    /// True if it is none: an open flow was shown because of what it gained.
    pub live: bool,
}

/// Records on their way to the rules.
#[derive(Debug, Default)]
pub(crate) struct PendingRecords {
    records: Vec<FlowRecord>,
    order: Vec<SortKey>,
    /// True if the rules have seen them.
    is_evaluated: bool,
}

/// When it is whose turn.
#[derive(Clone, Copy, Debug)]
struct SortKey {
    at: Time,
    time: Time,
    /// The beginning of what decides between equal moments.
    endpoints: u64,
    mask: RuleMask,
    record: u32,
    phase: RecordPhase,
}

impl PendingRecords {
    /// Adds a record. Those that the rules have seen are forgotten.
    pub(crate) fn push(&mut self, at: Time, phase: RecordPhase, mask: RuleMask, record: FlowRecord) {
        if self.is_evaluated {
            self.clear();
        }
        let time = record.time();
        let (at, endpoints) = (at.max(time), order_prefix(&record.flow.key));
        self.order.push(SortKey { at, time, endpoints, mask, record: self.records.len() as u32, phase });
        self.records.push(record);
    }

    /// Puts them in their order, in which the rules see them now: by moment; of equal moments the earlier
    /// event time goes first, then the lower client address and port, then the lower server address and port.
    /// Those of the last time are forgotten.
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

    /// Those that the rules have seen last, or see now, in their order.
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

    /// Brings the next records into the caches. Read one by one, each waits for main memory alone.
    fn prefetch(&self, from: usize) {
        let next = self.order.iter().skip(from).take(PREFETCH_RECORDS);
        let mut all = 0;
        for record in next.filter_map(|sort_key| self.records.get(sort_key.record as usize)) {
            // Something of each of its lines, wherever those begin and end.
            let FlowRecord { flow, complete, .. } = record;
            all ^= flow.up.packets ^ flow.up.data_bytes ^ flow.down.bytes;
            all ^= u64::from(flow.key.client_port) ^ u64::from(flow.facts.syn) ^ u64::from(*complete);
            all ^= flow.last().as_nanos();
        }
        black_box(all);
    }

    /// Those that the rules have not seen yet.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = RuleInput<'_>> {
        let order = if self.is_evaluated { [].as_slice() } else { &self.order };
        order.iter().filter_map(|sort_key| {
            let record = self.records.get(sort_key.record as usize)?;
            Some(RuleInput { at: sort_key.at, record, live: sort_key.phase == RecordPhase::Live })
        })
    }

    /// The rules have seen that record of `flow` after all.
    pub(crate) fn remove(&mut self, at: Time, phase: RecordPhase, flow: &Flow) {
        let Self { records, order, is_evaluated } = self;
        order.retain(|sort_key| {
            let of = |record: &FlowRecord| (record.flow.key, record.flow.first) == (flow.key, flow.first);
            let same = || records.get(sort_key.record as usize).is_some_and(of);
            *is_evaluated || (sort_key.at, sort_key.phase) != (at, phase) || !same()
        });
    }

    /// The same, as they were judged.
    pub(crate) fn rule_inputs(&self) -> impl Iterator<Item = RuleInput<'_>> {
        let input = |PendingRecord { at, phase, record, .. }| RuleInput {
            at,
            record,
            live: phase == RecordPhase::Live,
        };
        self.in_order().map(input)
    }

    fn clear(&mut self) {
        // A flood leaves, but the memory for it need not be found anew between two of its waves.
        let room = self.records.len().max(RETAINED_RECORDS);
        self.records.clear();
        self.order.clear();
        self.records.shrink_to(room);
        self.order.shrink_to(room);
        self.is_evaluated = false;
    }
}

fn endpoints(record: &FlowRecord) -> impl Ord + use<> {
    let key = &record.flow.key;
    (key.client.ip(), key.client_port, key.server.ip(), key.server_port)
}

/// What begins to tell [`endpoints`] apart, as a number: lower is earlier, and equal says nothing.
fn order_prefix(key: &FlowKey) -> u64 {
    match key.client.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()) << 16 | u64::from(key.client_port),
        IpAddr::V6(ip) => 1 << 63 | (ip.to_bits() >> 65) as u64,
    }
}
