//! The records of several logs as one history, in an order that does not depend on that of the lines.
//!
//! [`FlowTimeline`] holds all of its records in memory; [`RecordSorter`] sorts those of logs of any size in bounded memory, and
//! gives the same order.

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

/// Records on their way into their order.
///
/// Other tools' records are seen at their event time. The agent's own are seen when it made them: a
/// flow's record comes once the flow has been silent for long enough, and so the same records give the
/// same alerts again. A rule's window is one of event time either way.
#[derive(Debug)]
pub struct FlowTimeline {
    timing: RecordTiming,
    records: Vec<TimedRecord>,
    /// The latest moment of which a record tells.
    end: Time,
}

impl FlowTimeline {
    /// Without any record yet.
    pub fn new(timing: RecordTiming) -> Self {
        Self { timing, records: Vec::new(), end: Time::ZERO }
    }

    /// Adds a record.
    pub fn push(&mut self, entry: LogRecord) {
        let (record, latest) = self.timing.record(entry);
        self.end = self.end.max(latest);
        self.records.push(record);
    }

    /// The history's end: no record tells of a later moment.
    pub fn end(&self) -> Time {
        self.end
    }

    /// The records in their order, and how many were left out as they stand in the logs twice.
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

/// A flow's active records were made before its last one, also where the agent that made them did so at other
/// intervals than are configured here: seen after it, they would be another flow's.
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
