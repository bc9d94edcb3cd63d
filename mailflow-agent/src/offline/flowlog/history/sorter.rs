//! Records of logs of any size on their way into their order, in bounded memory.
//!
//! Each thread that reads lines collects records in a [`Part`]. A part that is full is sorted and becomes a run of
//! bytes. Runs stay in memory up to a limit; those beyond it are written to a temporary file. When there are as many of
//! these as can be read together, they become one. In the end all runs are merged.
//!
//! Two kinds of records cannot be put in their place before all logs have been read, and wait apart: active ones, as a
//! flow's last record may move them, and those of an agent's stop, as no record is seen after the end of the history.

use std::{
    collections::HashMap,
    io, mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mailflow_common::FlowKey;

use super::{
    Arrival, Rhythm, encoding,
    merge::{Merge, Sorted},
    run::{Run, Spill},
};
use crate::offline::flowlog::Entry;
use mailflow_engine::{flow::RecordReason, time::Time};

/// Bounds of the memory that sorting takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of sorted records; what is more is written to a temporary file.
    pub memory: usize,
    /// Records that a thread collects before it sorts them.
    pub part: usize,
    /// Runs in a temporary file that are read together.
    pub fan: usize,
    /// Active records whose flows' ends are looked for at once.
    pub active: usize,
}

impl Limits {
    /// As docs/rules/backtest.md states them.
    pub const USUAL: Limits = Limits { memory: 256 << 20, part: 1 << 15, fan: 128, active: 1 << 17 };
}

/// Sorts the records of several logs.
#[derive(Debug)]
pub struct Sorter {
    rhythm: Rhythm,
    limits: Limits,
    waiting: Mutex<Waiting>,
}

/// Records that wait for their turn.
#[derive(Debug, Default)]
struct Waiting {
    /// The latest moment of which a record tells.
    end: Time,
    /// Parts that are not full.
    parts: Vec<Vec<Arrival>>,
    /// Bytes in memory.
    held: usize,
    sorted: Vec<Run>,
    /// Sorted runs in files, and those that were made of many of these, and so on.
    spilled: Vec<(Spill, Vec<Run>)>,
    /// Active records, in no order.
    active: Vec<Run>,
    /// Records of an agent's stop, in no order.
    stopped: Vec<Run>,
    unsorted: Spill,
    /// The reason why a record could not be kept.
    failed: Option<io::Error>,
}

/// Records that one thread collects.
pub struct Part<'a> {
    sorter: &'a Sorter,
    arrivals: Vec<Arrival>,
    end: Time,
}

impl Sorter {
    /// Without any record yet.
    pub fn new(rhythm: Rhythm, limits: Limits) -> Self {
        Self { rhythm, limits, waiting: Mutex::default() }
    }

    /// Returns a place for the records of one thread.
    pub fn part(&self) -> Part<'_> {
        let arrivals = self.waiting().parts.pop().unwrap_or_default();
        Part { sorter: self, arrivals, end: Time::ZERO }
    }

    /// Returns false once a record could not be kept: [`Sorter::sorted`] says why.
    pub fn is_good(&self) -> bool {
        self.waiting().failed.is_none()
    }

    /// Returns all records in their order, and the end of the history: no record tells of a later moment.
    ///
    /// # Errors
    /// A temporary file cannot be written or read.
    pub fn sorted(self) -> io::Result<(Sorted, Time)> {
        let mut waiting = self.waiting.into_inner().unwrap_or_else(PoisonError::into_inner);
        let limits = &self.limits;
        for mut part in mem::take(&mut waiting.parts) {
            let (sorted, active, stopped) = runs(&mut part);
            waiting.keep(limits, sorted, active, stopped)?;
        }
        if let Some(error) = waiting.failed {
            return Err(error);
        }
        waiting.place_active(limits)?;
        waiting.place_stopped(limits)?;
        let Waiting { end, sorted, spilled, .. } = waiting;
        let runs = sorted.into_iter().chain(spilled.into_iter().flat_map(|(_, runs)| runs));
        Ok((Sorted::new(Merge::new(runs)?), end))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part<'_> {
    /// Adds a record.
    pub fn push(&mut self, entry: Entry) {
        let (arrival, known) = self.sorter.rhythm.arrival(entry);
        self.end = self.end.max(known);
        self.arrivals.push(arrival);
        if self.arrivals.len() >= self.sorter.limits.part {
            let (sorted, active, stopped) = runs(&mut self.arrivals);
            let mut waiting = self.sorter.waiting();
            if waiting.failed.is_none()
                && let Err(error) = waiting.keep(&self.sorter.limits, sorted, active, stopped)
            {
                waiting.failed = Some(error);
            }
        }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut waiting = self.sorter.waiting();
        waiting.end = waiting.end.max(self.end);
        waiting.parts.push(mem::take(&mut self.arrivals));
    }
}

/// Takes records as bytes: sorted ones, active ones, and those of an agent's stop.
fn runs(arrivals: &mut Vec<Arrival>) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (mut sorted, mut active, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    let mut turns = Vec::with_capacity(arrivals.len());
    for (place, arrival) in (0_u32..).zip(arrivals.iter()) {
        match arrival.record.reason {
            RecordReason::Active => encoding::write(&mut active, arrival),
            RecordReason::Shutdown => encoding::write(&mut stopped, arrival),
            RecordReason::Closed | RecordReason::Idle => {
                turns.push((arrival.at, arrival.record.time(), place));
            }
        }
    }
    // Places instead of records, which are far larger.
    turns.sort_unstable_by(|one, other| {
        (one.0, one.1).cmp(&(other.0, other.1)).then_with(|| {
            let [one, other] = [one, other].map(|turn| arrivals.get(turn.2 as usize));
            one.zip(other).map_or(std::cmp::Ordering::Equal, |(one, other)| one.order(other))
        })
    });
    for arrival in turns.iter().filter_map(|turn| arrivals.get(turn.2 as usize)) {
        encoding::write(&mut sorted, arrival);
    }
    for bytes in [&mut sorted, &mut active, &mut stopped] {
        bytes.shrink_to_fit();
    }
    arrivals.clear();
    (sorted, active, stopped)
}

/// Writes merged runs to a file, for [`Spill::run`].
fn append(spill: &mut Spill, mut merge: Merge) -> io::Result<u64> {
    /// Bytes that are written at once.
    const WRITTEN: usize = 1 << 20;
    let mut bytes = Vec::new();
    let from = spill.append(&bytes)?;
    while let Some(arrival) = merge.take()? {
        encoding::write(&mut bytes, &arrival);
        if bytes.len() >= WRITTEN {
            spill.append(&bytes)?;
            bytes.clear();
        }
    }
    spill.append(&bytes)?;
    Ok(from)
}

impl Waiting {
    fn keep(
        &mut self,
        limits: &Limits,
        sorted: Vec<u8>,
        active: Vec<u8>,
        stopped: Vec<u8>,
    ) -> io::Result<()> {
        self.keep_sorted(limits, sorted)?;
        for (bytes, is_active) in [(active, true), (stopped, false)] {
            if bytes.is_empty() {
                continue;
            }
            let run = if self.held + bytes.len() <= limits.memory {
                self.held += bytes.len();
                Some(Run::in_memory(bytes))
            } else {
                let from = self.unsorted.append(&bytes)?;
                self.unsorted.run(from)
            };
            if is_active { &mut self.active } else { &mut self.stopped }.extend(run);
        }
        Ok(())
    }

    fn keep_sorted(&mut self, limits: &Limits, bytes: Vec<u8>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.held + bytes.len() <= limits.memory {
            self.held += bytes.len();
            self.sorted.push(Run::in_memory(bytes));
            return Ok(());
        }
        self.spill(limits, &bytes)
    }

    /// Writes a run to a file. Where those of a level are as many as are read together, they become one of the next.
    fn spill(&mut self, limits: &Limits, bytes: &[u8]) -> io::Result<()> {
        let mut many: Option<Merge> = None;
        for level in 0.. {
            if self.spilled.len() <= level {
                self.spilled.resize_with(level + 1, Default::default);
            }
            let Some((spill, runs)) = self.spilled.get_mut(level) else { break };
            let from = match many.take() {
                None => spill.append(bytes)?,
                Some(merge) => append(spill, merge)?,
            };
            runs.extend(spill.run(from));
            if runs.len() < limits.fan {
                break;
            }
            spill.end();
            many = Some(Merge::new(mem::take(runs))?);
        }
        Ok(())
    }

    /// A flow's active records were made before its last one, also where the agent that made them did so at other
    /// intervals than are configured here: seen after it, they would be another flow's.
    fn place_active(&mut self, limits: &Limits) -> io::Result<()> {
        let mut arrivals = Vec::new();
        for run in mem::take(&mut self.active) {
            self.held -= run.held();
            let mut reader = run.reader();
            while reader.peek()?.is_some() {
                arrivals.push(reader.take()?);
                if arrivals.len() >= limits.active {
                    self.place_some_active(limits, &mut arrivals)?;
                }
            }
        }
        self.place_some_active(limits, &mut arrivals)
    }

    fn place_some_active(&mut self, limits: &Limits, arrivals: &mut Vec<Arrival>) -> io::Result<()> {
        if arrivals.is_empty() {
            return Ok(());
        }
        let flow = |arrival: &Arrival| (arrival.record.flow.key, arrival.record.flow.first);
        let mut ends: HashMap<(FlowKey, Time), Time> =
            arrivals.iter().map(|arrival| (flow(arrival), Time::END)).collect();
        // Active ones that were placed before are among them, and are none.
        let spilled = self.spilled.iter().flat_map(|(_, runs)| runs);
        for run in self.sorted.iter().chain(spilled).chain(&self.stopped) {
            let mut reader = run.clone().reader();
            while reader.peek()?.is_some() {
                let other = reader.take()?;
                if other.record.reason != RecordReason::Active
                    && let Some(end) = ends.get_mut(&flow(&other))
                {
                    *end = other.at.min(*end);
                }
            }
        }
        for arrival in arrivals.iter_mut() {
            if let Some(end) = ends.get(&flow(arrival)) {
                arrival.at = arrival.at.min(*end);
            }
        }
        self.place(limits, arrivals)
    }

    /// Nothing is seen after the end of the history.
    fn place_stopped(&mut self, limits: &Limits) -> io::Result<()> {
        let mut arrivals = Vec::new();
        for run in mem::take(&mut self.stopped) {
            self.held -= run.held();
            let mut reader = run.reader();
            while reader.peek()?.is_some() {
                let arrival = reader.take()?;
                arrivals.push(Arrival { at: arrival.at.min(self.end), ..arrival });
                if arrivals.len() >= limits.part {
                    self.place(limits, &mut arrivals)?;
                }
            }
        }
        self.place(limits, &mut arrivals)
    }

    fn place(&mut self, limits: &Limits, arrivals: &mut Vec<Arrival>) -> io::Result<()> {
        arrivals.sort_unstable_by(Arrival::order);
        let mut bytes = Vec::new();
        arrivals.drain(..).for_each(|arrival| encoding::write(&mut bytes, &arrival));
        self.keep_sorted(limits, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{prelude::*, strategy::ValueTree};

    use super::{super::History, *};
    use crate::offline::flowlog::Origin;
    use mailflow_engine::{
        flow::{Direction, Flow, FlowRecord},
        inputs::Inputs,
        settings::Timeouts,
    };

    /// Little enough that each limit is reached with a few records.
    const LITTLE: Limits = Limits { memory: 400, part: 3, fan: 2, active: 2 };

    fn rhythm() -> Rhythm {
        let seconds = Duration::from_secs;
        let timeouts =
            Timeouts { closed: seconds(5), idle: seconds(20), unanswered: seconds(9), active: seconds(30) };
        Rhythm { timeouts, poll_interval: seconds(1) }
    }

    /// Records of few flows at few moments, so that some are equal and some differ in little.
    fn entry() -> impl Strategy<Value = Entry> {
        let reason = prop::sample::select(&RecordReason::ALL);
        let origin = prop::sample::select(vec![Origin::Mailflow, Origin::Mailflow, Origin::Zeek]);
        (reason, origin, 0..6_u8, 0..3_u64, 0..90_u64, 0..3_u8).prop_map(
            |(reason, origin, client, first, age, facts)| {
                let mut flow = Flow {
                    key: FlowKey {
                        client: std::net::IpAddr::from([10, 0, 0, client]).into(),
                        ..FlowKey::default()
                    },
                    up: Direction::default(),
                    down: Direction::default(),
                    first: Time::from_nanos((1_000 + first * 40) * 1_000_000_000),
                    messages: 0,
                    rejected: 0,
                    mac: None,
                    interface: None,
                    facts: Default::default(),
                };
                flow.up.last = Some(flow.first + Duration::from_secs(age));
                (flow.facts.syn, flow.facts.reset) = (1, facts);
                let (app, complete, inputs) = (mailflow_common::App::Smtp, true, Inputs::all());
                Entry { record: FlowRecord { flow, app, reason, complete, inputs }, origin }
            },
        )
    }

    fn sorted(sorter: Sorter) -> (Vec<Arrival>, u64, Time) {
        let (sorted, end) = sorter.sorted().unwrap();
        let mut arrivals = Vec::new();
        let repeated = sorted.for_each(|some| arrivals.extend_from_slice(some)).unwrap();
        (arrivals, repeated, end)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// By whichever threads records were collected, and wherever they waited.
        #[test]
        fn the_order_is_that_of_a_history_in_memory(entries in prop::collection::vec(entry(), 0..60)) {
            let mut history = History::new(rhythm());
            entries.iter().for_each(|entry| history.push(entry.clone()));
            let end = history.end();
            let (arrivals, repeated) = history.ordered();
            for limits in [LITTLE, Limits { memory: 4_000, ..LITTLE }, Limits::USUAL] {
                let sorter = Sorter::new(rhythm(), limits);
                {
                    let (mut one, mut other) = (sorter.part(), sorter.part());
                    for (number, entry) in entries.iter().enumerate() {
                        if number % 3 == 0 { &mut one } else { &mut other }.push(entry.clone());
                    }
                }
                prop_assert!(sorter.is_good());
                prop_assert_eq!(sorted(sorter), (arrivals.clone(), repeated, end));
            }
        }
    }

    #[test]
    fn runs_in_files_become_few() {
        let sorter = Sorter::new(rhythm(), LITTLE);
        let mut part = sorter.part();
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for _ in 0..1_000 {
            part.push(entry().new_tree(&mut runner).unwrap().current());
        }
        drop(part);
        let waiting = sorter.waiting();
        assert!(waiting.held <= LITTLE.memory);
        // 1,000 / 3 runs, two of which become one at each of eight levels or so.
        let runs: Vec<usize> = waiting.spilled.iter().map(|(_, runs)| runs.len()).collect();
        assert!((5..=9).contains(&runs.len()) && runs.iter().all(|runs| *runs < LITTLE.fan), "{runs:?}");
    }
}
