//! Timeline: the records of several logs in an order that does not depend on the order of the lines.
//!
//! [`FlowTimeline`] holds all records in memory. [`RecordSorter`] sorts logs of any size in bounded memory,
//! and gives the same order.

mod merge;
mod record_encoding;
mod run;
mod sorter;
mod timing;

use std::collections::HashMap;

pub use self::{
    merge::SortedRecords,
    sorter::{RecordSorter, SortBuffer, SorterLimits},
    timing::{RecordTiming, TimedRecord},
};
use super::LogRecord;
use mailflow_engine::{flow::RecordReason, time::Time};

/// Records to be sorted.
///
/// The rules evaluate records of other tools at their event time. They evaluate records of the agent at the
/// time at which the agent created them. This time follows from the timeouts, so the same records give the
/// same alerts again. A window of a rule is one of event time in both cases.
#[derive(Debug)]
pub struct FlowTimeline {
    timing: RecordTiming,
    records: Vec<TimedRecord>,
    /// Latest known time of any record.
    end: Time,
}

impl FlowTimeline {
    /// Creates an empty timeline.
    pub fn new(timing: RecordTiming) -> Self {
        Self { timing, records: Vec::new(), end: Time::ZERO }
    }

    /// Adds a record.
    pub fn push(&mut self, log_record: LogRecord) {
        let (record, latest) = self.timing.schedule(log_record);
        self.end = self.end.max(latest);
        self.records.push(record);
    }

    /// Returns the end of the timeline: the latest known time of any record.
    pub fn end(&self) -> Time {
        self.end
    }

    /// Returns the records in order, and the number of repeated records, which are left out.
    pub fn ordered(mut self) -> (Vec<TimedRecord>, u64) {
        place_active_before_final(&mut self.records);
        for record in &mut self.records {
            record.at = record.at.min(self.end);
        }
        self.records.sort_unstable_by(TimedRecord::order);
        let before = self.records.len();
        self.records.dedup_by(|one, other| one.at == other.at && one.record == other.record);
        let duplicates = (before - self.records.len()) as u64;
        (self.records, duplicates)
    }
}

/// Moves the interim records of a flow before its final one. Their computed times may be later if the agent
/// that created them had another active timeout. After the final record they would belong to another flow.
fn place_active_before_final(records: &mut [TimedRecord]) {
    let flow = |record: &TimedRecord| (record.record.flow.key, record.record.flow.first);
    let active = |record: &TimedRecord| record.record.reason == RecordReason::Active;
    let active_records = records.iter().filter(|record| active(record));
    let mut endpoints: HashMap<_, Option<Time>> = active_records.map(|record| (flow(record), None)).collect();
    for record in records.iter().filter(|record| !active(record)) {
        if let Some(end) = endpoints.get_mut(&flow(record)) {
            *end = Some(end.map_or(record.at, |end| end.min(record.at)));
        }
    }
    for record in records.iter_mut().filter(|record| active(record)) {
        if let Some(Some(end)) = endpoints.get(&flow(record)) {
            record.at = record.at.min(*end);
        }
    }
}
