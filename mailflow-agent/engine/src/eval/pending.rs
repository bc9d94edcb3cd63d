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
const KEPT: usize = 1 << 12;

/// Records that are brought into the caches together.
const AHEAD: usize = 16;

/// A record as the rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingRecord<'a> {
    /// When it is their turn to see it; not before its event time.
    pub(crate) at: Time,
    pub(crate) stage: RecordPhase,
    /// The rules that count its flow.
    pub(crate) fit: RuleMask,
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
    pub open: bool,
}

/// Records on their way to the rules.
#[derive(Debug, Default)]
pub(crate) struct PendingRecords {
    records: Vec<FlowRecord>,
    turns: Vec<SortKey>,
    /// True if the rules have seen them.
    seen: bool,
}

/// When it is whose turn.
#[derive(Clone, Copy, Debug)]
struct SortKey {
    at: Time,
    time: Time,
    /// The beginning of what decides between equal moments.
    ends: u64,
    fit: RuleMask,
    record: u32,
    stage: RecordPhase,
}

impl PendingRecords {
    /// Adds a record. Those that the rules have seen are forgotten.
    pub(crate) fn push(&mut self, at: Time, stage: RecordPhase, fit: RuleMask, record: FlowRecord) {
        if self.seen {
            self.clear();
        }
        let time = record.time();
        let (at, ends) = (at.max(time), near(&record.flow.key));
        self.turns.push(SortKey { at, time, ends, fit, record: self.records.len() as u32, stage });
        self.records.push(record);
    }

    /// Puts them in their order, in which the rules see them now: by moment; of equal moments the earlier
    /// event time goes first, then the lower client address and port, then the lower server address and port.
    /// Those of the last time are forgotten.
    pub(crate) fn sort(&mut self) {
        if self.seen {
            self.clear();
        }
        self.seen = true;
        let Self { records, turns, .. } = self;
        turns.sort_unstable_by(|one, other| {
            let of = |turn: &SortKey| (turn.at, turn.time, turn.ends);
            of(one).cmp(&of(other)).then_with(|| {
                let [one, other] = [one, other].map(|turn| records.get(turn.record as usize));
                one.map(ends).cmp(&other.map(ends))
            })
        });
    }

    /// Those that the rules have seen last, or see now, in their order.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = PendingRecord<'_>> {
        let turns = if self.seen { self.turns.as_slice() } else { &[] };
        turns.iter().enumerate().filter_map(|(place, turn)| {
            if place % AHEAD == 0 {
                self.warm(place);
            }
            let SortKey { at, fit, record, stage, .. } = *turn;
            Some(PendingRecord { at, stage, fit, record: self.records.get(record as usize)? })
        })
    }

    /// Brings the next records into the caches. Read one by one, each waits for main memory alone.
    fn warm(&self, from: usize) {
        let near = self.turns.iter().skip(from).take(AHEAD);
        let mut all = 0;
        for record in near.filter_map(|turn| self.records.get(turn.record as usize)) {
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
        let turns = if self.seen { [].as_slice() } else { &self.turns };
        turns.iter().filter_map(|turn| {
            let record = self.records.get(turn.record as usize)?;
            Some(RuleInput { at: turn.at, record, open: turn.stage == RecordPhase::Live })
        })
    }

    /// The rules have seen that record of `flow` after all.
    pub(crate) fn forget(&mut self, at: Time, stage: RecordPhase, flow: &Flow) {
        let Self { records, turns, seen } = self;
        turns.retain(|turn| {
            let of = |record: &FlowRecord| (record.flow.key, record.flow.first) == (flow.key, flow.first);
            let same = || records.get(turn.record as usize).is_some_and(of);
            *seen || (turn.at, turn.stage) != (at, stage) || !same()
        });
    }

    /// The same, as they were judged.
    pub(crate) fn judged(&self) -> impl Iterator<Item = RuleInput<'_>> {
        let judged = |PendingRecord { at, stage, record, .. }| RuleInput {
            at,
            record,
            open: stage == RecordPhase::Live,
        };
        self.in_order().map(judged)
    }

    fn clear(&mut self) {
        // A flood leaves, but the memory for it need not be found anew between two of its waves.
        let room = self.records.len().max(KEPT);
        self.records.clear();
        self.turns.clear();
        self.records.shrink_to(room);
        self.turns.shrink_to(room);
        self.seen = false;
    }
}

fn ends(record: &FlowRecord) -> impl Ord + use<> {
    let key = &record.flow.key;
    (key.client.ip(), key.client_port, key.server.ip(), key.server_port)
}

/// What begins to tell [`ends`] apart, as a number: lower is earlier, and equal says nothing.
fn near(key: &FlowKey) -> u64 {
    match key.client.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()) << 16 | u64::from(key.client_port),
        IpAddr::V6(ip) => 1 << 63 | (ip.to_bits() >> 65) as u64,
    }
}
