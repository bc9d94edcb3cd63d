//! Sorted runs as one, without the records that are there twice.

use std::{io, num::NonZero, sync::mpsc, thread};

use super::{Arrival, run::Reader, run::Run};
use mailflow_engine::time::Time;

/// Records handed from one thread to another at once.
const BATCH: usize = 512;

/// Batches that wait between the two.
const BATCHES: usize = 4;

/// Several sorted runs, the one whose next record is first at the root of a heap.
pub(crate) struct Merge {
    readers: Vec<Reader>,
    heap: Vec<Head>,
}

/// A run's next record.
#[derive(Clone, Copy)]
struct Head {
    at: Time,
    time: Time,
    reader: usize,
}

impl Merge {
    pub(crate) fn new(runs: impl IntoIterator<Item = Run>) -> io::Result<Self> {
        let mut merge = Self { readers: runs.into_iter().map(Run::reader).collect(), heap: Vec::new() };
        for (reader, run) in merge.readers.iter_mut().enumerate() {
            if let Some((at, time)) = run.peek()? {
                merge.heap.push(Head { at, time, reader });
            }
        }
        (0..merge.heap.len() / 2).rev().for_each(|place| merge.sink(place));
        Ok(merge)
    }

    /// Takes the first record of all.
    #[inline]
    pub(crate) fn take(&mut self) -> io::Result<Option<Arrival>> {
        let Some(Head { reader, .. }) = self.heap.first().copied() else { return Ok(None) };
        let Some(run) = self.readers.get_mut(reader) else { return Ok(None) };
        let arrival = run.take()?;
        match run.peek()? {
            Some((at, time)) => {
                if let Some(head) = self.heap.first_mut() {
                    (head.at, head.time) = (at, time);
                }
            }
            None => drop(self.heap.swap_remove(0)),
        }
        self.sink(0);
        Ok(Some(arrival))
    }

    fn precedes(&self, one: Head, other: Head) -> bool {
        let moments = |head: Head| (head.at, head.time);
        moments(one).cmp(&moments(other)).then_with(|| {
            let next = |head: Head| self.readers.get(head.reader).and_then(Reader::look);
            match (next(one), next(other)) {
                (Some(one), Some(other)) => one.order(&other),
                (one, other) => other.is_some().cmp(&one.is_some()),
            }
        }) == std::cmp::Ordering::Less
    }

    /// Moves the head at `place` down to where it belongs.
    fn sink(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let Some(mut least) = self.heap.get(left).map(|_| left) else { return };
            if let (Some(one), Some(other)) = (self.heap.get(right), self.heap.get(left))
                && self.precedes(*one, *other)
            {
                least = right;
            }
            match (self.heap.get(least), self.heap.get(place)) {
                (Some(one), Some(other)) if self.precedes(*one, *other) => self.heap.swap(least, place),
                _ => return,
            }
            place = least;
        }
    }
}

/// The records of all logs in the order in which the rules see them.
pub struct Sorted {
    merge: Merge,
    last: Option<Arrival>,
    repeated: u64,
}

impl Sorted {
    pub(crate) fn new(merge: Merge) -> Self {
        Self { merge, last: None, repeated: 0 }
    }

    /// Hands on all records, some at a time; returns how many were left out as they stand in the logs twice. Another thread puts them in
    /// order meanwhile.
    ///
    /// # Errors
    /// A temporary file cannot be read.
    pub fn for_each(mut self, mut hand_on: impl FnMut(&[Arrival])) -> io::Result<u64> {
        if thread::available_parallelism().map_or(1, NonZero::get) == 1 {
            let mut batch = Vec::with_capacity(BATCH);
            while self.fill(&mut batch)? {
                hand_on(&batch);
            }
            return Ok(self.repeated);
        }
        let (filled, batches) = mpsc::sync_channel::<Vec<Arrival>>(BATCHES);
        let (give_back, empty) = mpsc::channel::<Vec<Arrival>>();
        thread::scope(|scope| {
            let merging = scope.spawn(move || {
                loop {
                    let mut batch = empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH));
                    if !self.fill(&mut batch)? || filled.send(batch).is_err() {
                        return Ok(self.repeated);
                    }
                }
            });
            for batch in batches {
                hand_on(&batch);
                // The other thread may have ended.
                let _ = give_back.send(batch);
            }
            merging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Puts the next records in the place of those of `batch`. False at the end.
    fn fill(&mut self, batch: &mut Vec<Arrival>) -> io::Result<bool> {
        batch.clear();
        while batch.len() < BATCH {
            let Some(arrival) = self.merge.take()? else { break };
            if batch.last().or(self.last.as_ref()) == Some(&arrival) {
                self.repeated += 1;
            } else {
                batch.push(arrival);
            }
        }
        if let Some(last) = batch.last() {
            self.last = Some(last.clone());
        }
        Ok(!batch.is_empty())
    }
}
