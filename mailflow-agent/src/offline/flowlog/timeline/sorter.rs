//! Sorter of the records of logs of any size, in bounded memory (external merge sort).
//!
//! Each parser thread collects records in a [`SortBuffer`]. A full buffer is sorted and becomes a run. Runs
//! stay in memory up to a limit, and later ones are written to a temporary file. When the number of runs in
//! a file reaches the merge width, they are merged into one. At the end all runs are merged.
//!
//! Two kinds of records wait until all logs are read. Interim ones wait as the final record of the flow may
//! move them. Those of an agent's shutdown wait as no record is later than the end of the timeline.

use std::{
    collections::HashMap,
    io, mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mailflow_common::FlowKey;

use super::{
    RecordTiming, TimedRecord,
    merge::{RunMerge, SortedRecords},
    record_encoding,
    run::{RecordRun, RunFile},
};
use crate::offline::flowlog::LogRecord;
use mailflow_engine::{flow::RecordReason, time::Time};

/// Limits of the memory that sorting takes.
#[derive(Clone, Copy, Debug)]
pub struct SorterLimits {
    /// Bytes of runs in memory. Later runs are written to a temporary file.
    pub memory: usize,
    /// Records that a thread collects before they are sorted.
    pub records_per_buffer: usize,
    /// Number of runs in a temporary file that are merged together.
    pub merge_width: usize,
    /// Interim records whose final records are searched for in one pass.
    pub active: usize,
}

impl SorterLimits {
    /// Limits that docs/rules/backtest.md states.
    pub const DEFAULT: SorterLimits =
        SorterLimits { memory: 256 << 20, records_per_buffer: 1 << 15, merge_width: 128, active: 1 << 17 };
}

/// Sorter of the records of several logs.
#[derive(Debug)]
pub struct RecordSorter {
    timing: RecordTiming,
    limits: SorterLimits,
    pending: Mutex<PendingRuns>,
}

/// Records that wait for the merge.
#[derive(Debug, Default)]
struct PendingRuns {
    /// Latest known time of any record.
    end: Time,
    /// Buffers that are not full.
    buffers: Vec<Vec<TimedRecord>>,
    /// Bytes in memory.
    bytes_in_memory: usize,
    sorted: Vec<RecordRun>,
    /// Sorted runs in files: level 0, then merges of many runs of level 0, and so on.
    run_files: Vec<(RunFile, Vec<RecordRun>)>,
    /// Interim records, unsorted.
    active: Vec<RecordRun>,
    /// Records of an agent's shutdown, unsorted.
    shutdown_records: Vec<RecordRun>,
    unsorted: RunFile,
    /// First error of a temporary file.
    write_error: Option<io::Error>,
}

/// Records that one thread collects.
pub struct SortBuffer<'a> {
    sorter: &'a RecordSorter,
    records: Vec<TimedRecord>,
    end: Time,
}

impl RecordSorter {
    /// Creates an empty sorter.
    pub fn new(timing: RecordTiming, limits: SorterLimits) -> Self {
        Self { timing, limits, pending: Mutex::default() }
    }

    /// Returns a buffer for the records of one thread.
    pub fn buffer(&self) -> SortBuffer<'_> {
        let records = self.pending().buffers.pop().unwrap_or_default();
        SortBuffer { sorter: self, records, end: Time::ZERO }
    }

    /// Returns false after an error, which [`RecordSorter::sorted`] returns.
    pub fn is_healthy(&self) -> bool {
        self.pending().write_error.is_none()
    }

    /// Returns all records in order, and the end of the timeline: the latest known time of any record.
    ///
    /// # Errors
    /// Fails if a temporary file cannot be written or read.
    pub fn sorted(self) -> io::Result<(SortedRecords, Time)> {
        let mut pending = self.pending.into_inner().unwrap_or_else(PoisonError::into_inner);
        let limits = &self.limits;
        for mut buffer in mem::take(&mut pending.buffers) {
            let (sorted, active, shutdown_records) = runs(&mut buffer);
            pending.store(limits, sorted, active, shutdown_records)?;
        }
        if let Some(error) = pending.write_error {
            return Err(error);
        }
        pending.place_active(limits)?;
        pending.place_shutdown_records(limits)?;
        let PendingRuns { end, sorted, run_files, .. } = pending;
        let runs = sorted.into_iter().chain(run_files.into_iter().flat_map(|(_, runs)| runs));
        Ok((SortedRecords::new(RunMerge::new(runs)?), end))
    }

    fn pending(&self) -> MutexGuard<'_, PendingRuns> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SortBuffer<'_> {
    /// Adds a record.
    pub fn push(&mut self, log_record: LogRecord) {
        let (record, latest) = self.sorter.timing.schedule(log_record);
        self.end = self.end.max(latest);
        self.records.push(record);
        if self.records.len() >= self.sorter.limits.records_per_buffer {
            let (sorted, active, shutdown_records) = runs(&mut self.records);
            let mut pending = self.sorter.pending();
            if pending.write_error.is_none()
                && let Err(error) = pending.store(&self.sorter.limits, sorted, active, shutdown_records)
            {
                pending.write_error = Some(error);
            }
        }
    }
}

impl Drop for SortBuffer<'_> {
    fn drop(&mut self) {
        let mut pending = self.sorter.pending();
        pending.end = pending.end.max(self.end);
        pending.buffers.push(mem::take(&mut self.records));
    }
}

/// Encodes and clears records. Returns the sorted final ones, the interim ones, and those of an agent's
/// shutdown.
fn runs(records: &mut Vec<TimedRecord>) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (mut sorted, mut active, mut shutdown_records) = (Vec::new(), Vec::new(), Vec::new());
    let mut order_keys = Vec::with_capacity(records.len());
    for (index, record) in (0_u32..).zip(records.iter()) {
        match record.record.reason {
            RecordReason::Active => record_encoding::write(&mut active, record),
            RecordReason::Shutdown => record_encoding::write(&mut shutdown_records, record),
            RecordReason::Closed | RecordReason::Idle => {
                order_keys.push((record.at, record.record.time(), index));
            }
        }
    }
    // Sorts indexes instead of records, which are far larger.
    order_keys.sort_unstable_by(|one, other| {
        (one.0, one.1).cmp(&(other.0, other.1)).then_with(|| {
            let [one, other] = [one, other].map(|order_key| records.get(order_key.2 as usize));
            one.zip(other).map_or(std::cmp::Ordering::Equal, |(one, other)| one.order(other))
        })
    });
    for record in order_keys.iter().filter_map(|order_key| records.get(order_key.2 as usize)) {
        record_encoding::write(&mut sorted, record);
    }
    for bytes in [&mut sorted, &mut active, &mut shutdown_records] {
        bytes.shrink_to_fit();
    }
    records.clear();
    (sorted, active, shutdown_records)
}

/// Writes merged runs to a file, and returns their offset, for [`RunFile::run`].
fn append_merged(file: &mut RunFile, mut merge: RunMerge) -> io::Result<u64> {
    /// Number of bytes that are written at once.
    const WRITE_BYTES: usize = 1 << 20;
    let mut bytes = Vec::new();
    let from = file.append(&bytes)?;
    while let Some(record) = merge.take()? {
        record_encoding::write(&mut bytes, &record);
        if bytes.len() >= WRITE_BYTES {
            file.append(&bytes)?;
            bytes.clear();
        }
    }
    file.append(&bytes)?;
    Ok(from)
}

impl PendingRuns {
    fn store(
        &mut self,
        limits: &SorterLimits,
        sorted: Vec<u8>,
        active: Vec<u8>,
        shutdown_records: Vec<u8>,
    ) -> io::Result<()> {
        self.store_sorted(limits, sorted)?;
        for (bytes, is_active) in [(active, true), (shutdown_records, false)] {
            if bytes.is_empty() {
                continue;
            }
            let run = if self.bytes_in_memory + bytes.len() <= limits.memory {
                self.bytes_in_memory += bytes.len();
                Some(RecordRun::in_memory(bytes))
            } else {
                let from = self.unsorted.append(&bytes)?;
                self.unsorted.run(from)
            };
            if is_active { &mut self.active } else { &mut self.shutdown_records }.extend(run);
        }
        Ok(())
    }

    fn store_sorted(&mut self, limits: &SorterLimits, bytes: Vec<u8>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.bytes_in_memory + bytes.len() <= limits.memory {
            self.bytes_in_memory += bytes.len();
            self.sorted.push(RecordRun::in_memory(bytes));
            return Ok(());
        }
        self.write_to_file(limits, &bytes)
    }

    /// Writes a run to a file. When a level has as many runs as the merge width, merges them into one of the
    /// next level.
    fn write_to_file(&mut self, limits: &SorterLimits, bytes: &[u8]) -> io::Result<()> {
        let mut merged: Option<RunMerge> = None;
        for level in 0.. {
            if self.run_files.len() <= level {
                self.run_files.resize_with(level + 1, Default::default);
            }
            let Some((file, runs)) = self.run_files.get_mut(level) else { break };
            let from = match merged.take() {
                None => file.append(bytes)?,
                Some(merge) => append_merged(file, merge)?,
            };
            runs.extend(file.run(from));
            if runs.len() < limits.merge_width {
                break;
            }
            file.end();
            merged = Some(RunMerge::new(mem::take(runs))?);
        }
        Ok(())
    }

    /// Moves the interim records of a flow before its final one. Their computed times may be later if the
    /// agent that created them had another active timeout. After the final record they would belong to
    /// another flow.
    fn place_active(&mut self, limits: &SorterLimits) -> io::Result<()> {
        let mut records = Vec::new();
        for run in mem::take(&mut self.active) {
            self.bytes_in_memory -= run.bytes_in_memory();
            let mut reader = run.reader();
            while reader.peek()?.is_some() {
                records.push(reader.take()?);
                if records.len() >= limits.active {
                    self.place_some_active(limits, &mut records)?;
                }
            }
        }
        self.place_some_active(limits, &mut records)
    }

    fn place_some_active(&mut self, limits: &SorterLimits, records: &mut Vec<TimedRecord>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let flow = |record: &TimedRecord| (record.record.flow.key, record.record.flow.first);
        let mut endpoints: HashMap<(FlowKey, Time), Time> =
            records.iter().map(|record| (flow(record), Time::END)).collect();
        // These runs also contain interim records that were placed before; they are skipped.
        let run_files = self.run_files.iter().flat_map(|(_, runs)| runs);
        for run in self.sorted.iter().chain(run_files).chain(&self.shutdown_records) {
            let mut reader = run.clone().reader();
            while reader.peek()?.is_some() {
                let other = reader.take()?;
                if other.record.reason != RecordReason::Active
                    && let Some(end) = endpoints.get_mut(&flow(&other))
                {
                    *end = other.at.min(*end);
                }
            }
        }
        for record in records.iter_mut() {
            if let Some(end) = endpoints.get(&flow(record)) {
                record.at = record.at.min(*end);
            }
        }
        self.store_in_order(limits, records)
    }

    /// Moves records of a shutdown to the end of the timeline, if they are later.
    fn place_shutdown_records(&mut self, limits: &SorterLimits) -> io::Result<()> {
        let mut records = Vec::new();
        for run in mem::take(&mut self.shutdown_records) {
            self.bytes_in_memory -= run.bytes_in_memory();
            let mut reader = run.reader();
            while reader.peek()?.is_some() {
                let record = reader.take()?;
                records.push(TimedRecord { at: record.at.min(self.end), ..record });
                if records.len() >= limits.records_per_buffer {
                    self.store_in_order(limits, &mut records)?;
                }
            }
        }
        self.store_in_order(limits, &mut records)
    }

    fn store_in_order(&mut self, limits: &SorterLimits, records: &mut Vec<TimedRecord>) -> io::Result<()> {
        records.sort_unstable_by(TimedRecord::order);
        let mut bytes = Vec::new();
        records.drain(..).for_each(|record| record_encoding::write(&mut bytes, &record));
        self.store_sorted(limits, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{prelude::*, strategy::ValueTree};

    use super::{super::FlowTimeline, *};
    use crate::offline::flowlog::LogOrigin;
    use mailflow_engine::{
        flow::RecordFields,
        flow::{DirectionStats, Flow, FlowRecord},
        settings::Timeouts,
    };

    /// Limits that a few records reach.
    const SMALL: SorterLimits =
        SorterLimits { memory: 400, records_per_buffer: 3, merge_width: 2, active: 2 };

    fn timing() -> RecordTiming {
        let seconds = Duration::from_secs;
        let timeouts =
            Timeouts { closed: seconds(5), idle: seconds(20), unanswered: seconds(9), active: seconds(30) };
        RecordTiming { timeouts, poll_interval: seconds(1) }
    }

    /// Returns records of few flows at few times, so that some are equal and some differ only a little.
    fn log_record() -> impl Strategy<Value = LogRecord> {
        let reason = prop::sample::select(&RecordReason::ALL);
        let origin = prop::sample::select(vec![LogOrigin::Mailflow, LogOrigin::Mailflow, LogOrigin::Zeek]);
        (reason, origin, 0..6_u8, 0..3_u64, 0..90_u64, 0..3_u8).prop_map(
            |(reason, origin, client, first, age, facts)| {
                let mut flow = Flow {
                    key: FlowKey {
                        client: std::net::IpAddr::from([10, 0, 0, client]).into(),
                        ..FlowKey::default()
                    },
                    up: DirectionStats::default(),
                    down: DirectionStats::default(),
                    first: Time::from_nanos((1_000 + first * 40) * 1_000_000_000),
                    messages: 0,
                    rejected: 0,
                    mac: None,
                    interface: None,
                    facts: Default::default(),
                };
                flow.up.last = Some(flow.first + Duration::from_secs(age));
                (flow.facts.syn, flow.facts.reset) = (1, facts);
                let (app, complete, inputs) = (mailflow_common::App::Smtp, true, RecordFields::all());
                LogRecord { record: FlowRecord { flow, app, reason, complete, fields: inputs }, origin }
            },
        )
    }

    fn sorted(sorter: RecordSorter) -> (Vec<TimedRecord>, u64, Time) {
        let (sorted, end) = sorter.sorted().unwrap();
        let mut records = Vec::new();
        let duplicates = sorted.for_each(|batch| records.extend_from_slice(batch)).unwrap();
        (records, duplicates, end)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The order does not depend on the threads that collected the records, nor on where they waited.
        #[test]
        fn the_order_is_that_of_a_timeline_in_memory(log_records in prop::collection::vec(log_record(), 0..60)) {
            let mut timeline = FlowTimeline::new(timing());
            log_records.iter().for_each(|log_record| timeline.push(log_record.clone()));
            let end = timeline.end();
            let (records, duplicates) = timeline.ordered();
            for limits in [SMALL, SorterLimits { memory: 4_000, ..SMALL }, SorterLimits::DEFAULT] {
                let sorter = RecordSorter::new(timing(), limits);
                {
                    let (mut one, mut other) = (sorter.buffer(), sorter.buffer());
                    for (number, log_record) in log_records.iter().enumerate() {
                        if number % 3 == 0 { &mut one } else { &mut other }.push(log_record.clone());
                    }
                }
                prop_assert!(sorter.is_healthy());
                prop_assert_eq!(sorted(sorter), (records.clone(), duplicates, end));
            }
        }
    }

    #[test]
    fn runs_in_files_are_merged() {
        let sorter = RecordSorter::new(timing(), SMALL);
        let mut buffer = sorter.buffer();
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for _ in 0..1_000 {
            buffer.push(log_record().new_tree(&mut runner).unwrap().current());
        }
        drop(buffer);
        let pending = sorter.pending();
        assert!(pending.bytes_in_memory <= SMALL.memory);
        // 1,000 / 3 runs, merged in pairs at about eight levels.
        let runs: Vec<usize> = pending.run_files.iter().map(|(_, runs)| runs.len()).collect();
        assert!(
            (5..=9).contains(&runs.len()) && runs.iter().all(|runs| *runs < SMALL.merge_width),
            "{runs:?}"
        );
    }
}
