//! Merge of sorted runs, without repeated records.

use std::{io, num::NonZero, sync::mpsc, thread};

use super::{TimedRecord, run::RecordRun, run::RunReader};
use mailflow_engine::time::Time;

/// Number of records that are passed from one thread to the other at once.
const BATCH_RECORDS: usize = 512;

/// Largest number of batches between the threads.
const MAX_WAITING_BATCHES: usize = 4;

/// Merge of several sorted runs. The root of the heap is the run with the first record.
pub(crate) struct RunMerge {
    readers: Vec<RunReader>,
    heap: Vec<RunHead>,
}

/// Next record of a run.
#[derive(Clone, Copy)]
struct RunHead {
    at: Time,
    time: Time,
    reader: usize,
}

impl RunMerge {
    pub(crate) fn new(runs: impl IntoIterator<Item = RecordRun>) -> io::Result<Self> {
        let mut merge = Self { readers: runs.into_iter().map(RecordRun::reader).collect(), heap: Vec::new() };
        for (reader, run) in merge.readers.iter_mut().enumerate() {
            if let Some((at, time)) = run.peek()? {
                merge.heap.push(RunHead { at, time, reader });
            }
        }
        (0..merge.heap.len() / 2).rev().for_each(|index| merge.sift_down(index));
        Ok(merge)
    }

    /// Takes the first record of all runs.
    #[inline]
    pub(crate) fn take(&mut self) -> io::Result<Option<TimedRecord>> {
        let Some(RunHead { reader, .. }) = self.heap.first().copied() else { return Ok(None) };
        let Some(run) = self.readers.get_mut(reader) else { return Ok(None) };
        let record = run.take()?;
        match run.peek()? {
            Some((at, time)) => {
                if let Some(head) = self.heap.first_mut() {
                    (head.at, head.time) = (at, time);
                }
            }
            None => drop(self.heap.swap_remove(0)),
        }
        self.sift_down(0);
        Ok(Some(record))
    }

    fn precedes(&self, one: RunHead, other: RunHead) -> bool {
        let times = |head: RunHead| (head.at, head.time);
        times(one).cmp(&times(other)).then_with(|| {
            let next = |head: RunHead| self.readers.get(head.reader).and_then(RunReader::peek_record);
            match (next(one), next(other)) {
                (Some(one), Some(other)) => one.order(&other),
                (one, other) => other.is_some().cmp(&one.is_some()),
            }
        }) == std::cmp::Ordering::Less
    }

    /// Moves the head at `place` down to its position in the heap.
    fn sift_down(&mut self, mut index: usize) {
        loop {
            let (left, right) = (2 * index + 1, 2 * index + 2);
            let Some(mut least) = self.heap.get(left).map(|_| left) else { return };
            if let (Some(one), Some(other)) = (self.heap.get(right), self.heap.get(left))
                && self.precedes(*one, *other)
            {
                least = right;
            }
            match (self.heap.get(least), self.heap.get(index)) {
                (Some(one), Some(other)) if self.precedes(*one, *other) => self.heap.swap(least, index),
                _ => return,
            }
            index = least;
        }
    }
}

/// Records of all logs in the order in which the rules evaluate them.
pub struct SortedRecords {
    merge: RunMerge,
    last: Option<TimedRecord>,
    duplicates: u64,
}

impl SortedRecords {
    pub(crate) fn new(merge: RunMerge) -> Self {
        Self { merge, last: None, duplicates: 0 }
    }

    /// Calls `emit` with all records, in batches. Returns the number of repeated records, which are left out.
    /// Another thread merges the runs meanwhile.
    ///
    /// # Errors
    /// Fails if a temporary file cannot be read.
    pub fn for_each(mut self, mut emit: impl FnMut(&[TimedRecord])) -> io::Result<u64> {
        if thread::available_parallelism().map_or(1, NonZero::get) == 1 {
            let mut batch = Vec::with_capacity(BATCH_RECORDS);
            while self.fill(&mut batch)? {
                emit(&batch);
            }
            return Ok(self.duplicates);
        }
        let (filled, batches) = mpsc::sync_channel::<Vec<TimedRecord>>(MAX_WAITING_BATCHES);
        let (give_back, empty) = mpsc::channel::<Vec<TimedRecord>>();
        thread::scope(|scope| {
            let merging = scope.spawn(move || {
                loop {
                    let mut batch = empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH_RECORDS));
                    if !self.fill(&mut batch)? || filled.send(batch).is_err() {
                        return Ok(self.duplicates);
                    }
                }
            });
            for batch in batches {
                emit(&batch);
                // The other thread may have ended.
                let _ = give_back.send(batch);
            }
            merging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Replaces the records of `batch` by the next ones. Returns false at the end.
    fn fill(&mut self, batch: &mut Vec<TimedRecord>) -> io::Result<bool> {
        batch.clear();
        while batch.len() < BATCH_RECORDS {
            let Some(record) = self.merge.take()? else { break };
            if batch.last().or(self.last.as_ref()) == Some(&record) {
                self.duplicates += 1;
            } else {
                batch.push(record);
            }
        }
        if let Some(last) = batch.last() {
            self.last = Some(last.clone());
        }
        Ok(!batch.is_empty())
    }
}
