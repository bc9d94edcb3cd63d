//! What a poll leaves behind for the agent after this one: the journal, the history, the state.
//!
//! A flow is in the journal before it leaves the kernel's table. Where nothing can be written, flows wait in that table
//! for `state.durability_timeout`; then they leave it without being written down, and rules, alerts and outputs go on.
//! The tables are marked as ahead of the state ([`Ahead`]) before the first of them does. Durability begins again with
//! a fresh state, and only then with entries of the journal.

use std::{io, path::PathBuf, time::Duration};

use tracing::warn;

use super::{
    durability::{FailedWrite, WriteFailures},
    poll_records,
    state_dir::{AlertEventId, Checkpoint, JournalRecord, StateDir, WriteFailurePolicy},
};
use crate::{
    config::{AlertTo, Config, FlowTo, Target},
    control::Durability,
    outputs::router::Sinks,
};
use mailflow_engine::{
    Engine,
    event::Effects,
    time::{Epoch, Time},
};
use mailflow_kernel::clock;
use mailflow_kernel::{Ahead, Kernel};

/// How often the state is kept while it is small ...
const MIN_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// ... and while it is not.
const LARGE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// Keeping it takes at most one part in this many of a CPU's time ...
const CPU_TIME_DIVISOR: u32 = 200;
/// ... and less where that takes long: with the polls, a million quiet sources are to take less than a 100th of a core.
/// The journal since then stays short all the same, see [`StateDir::is_long`].
const LONG_CPU_TIME_DIVISOR: u32 = 500;
/// From here on it takes long.
const LONG_CHECKPOINT: Duration = Duration::from_millis(200);
/// Polls wait for the disk, and for other processes, for at most one part in this many of the time.
const WALL_TIME_DIVISOR: u32 = 20;
/// Living flows up to which it is small.
const SMALL_FLOW_COUNT: u64 = 5_000;

/// Keeps what outlives the process, if anything does.
pub(crate) struct Checkpointer {
    state_dir: Option<StateDir>,
    /// Files that the outputs write to.
    files: Vec<PathBuf>,
    next: Time,
    poll: Option<JournalRecord>,
    /// How long flows wait for a disk that takes nothing.
    durability_timeout: Duration,
    /// The mark that the pinned tables are ahead of the state, where they are pinned.
    ahead: Option<Ahead>,
    /// The state that the tables are marked as ahead of.
    marked_checkpoint: Option<Option<u64>>,
    failures: WriteFailures,
    /// What was judged in this poll could not be written.
    inputs_lost: bool,
    /// Entries of this poll could not be written to the journal.
    journal_failed: bool,
}

impl Checkpointer {
    /// Keeps nothing.
    pub(crate) fn disabled() -> Self {
        Self {
            state_dir: None,
            files: Vec::new(),
            next: Time::ZERO,
            poll: None,
            durability_timeout: Duration::ZERO,
            ahead: None,
            marked_checkpoint: None,
            failures: WriteFailures::default(),
            inputs_lost: false,
            journal_failed: false,
        }
    }

    /// Keeps it in `store`, which cannot be written because of `trouble`, if there is any. `ahead` marks the tables.
    pub(crate) fn new(
        state_dir: Option<StateDir>,
        ahead: Option<Ahead>,
        write_error: Option<String>,
        config: &Config,
    ) -> Self {
        let mut checkpointer = Self { state_dir, ahead, ..Self::disabled() };
        checkpointer.apply_config(config);
        if let Some(cause) = write_error {
            checkpointer.failures.note(FailedWrite::Journal, cause, checkpointer.durability_timeout, true);
            checkpointer.follow_suspension();
        }
        checkpointer
    }

    /// Another configuration is in force.
    pub(crate) fn apply_config(&mut self, config: &Config) {
        let alerts = config.outputs.alerts.iter().map(|output| match &output.to {
            AlertTo::Lines { target, .. } => Some(target),
            _ => None,
        });
        let flows = config.outputs.flow_log.iter().map(|output| match &output.to {
            FlowTo::Lines { target, .. } => Some(target),
            FlowTo::Ipfix(_) => None,
        });
        let file = |target: &Target| match target {
            Target::File(path) => Some(path.clone()),
            Target::Stdout => None,
        };
        self.files = alerts.chain(flows).flatten().filter_map(file).collect();
        self.durability_timeout = config.state.durability_timeout;
        if let Some(state_dir) = &mut self.state_dir {
            state_dir.set_limits(config.state.limits);
        }
    }

    /// A poll begins, whose lines are written by this epoch.
    pub(crate) fn begin_poll(&mut self, now: Time, epoch: Epoch) {
        self.journal_failed = false;
        self.poll = Some(JournalRecord::PollBegin { now, epoch: epoch.unix_nanos(Time::ZERO) });
    }

    /// Writes down what the poll is about to do.
    ///
    /// # Errors
    /// It cannot be written: then it must not be done.
    pub(crate) fn append(&mut self, entries: impl IntoIterator<Item = JournalRecord>) -> io::Result<()> {
        let Some(state_dir) = &mut self.state_dir else { return Ok(()) };
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        let first = self.poll.take();
        let policy = self.failures.policy(self.durability_timeout);
        let result = state_dir.append(first.iter().cloned().chain(entries), policy);
        if result.is_err() {
            (self.poll, self.journal_failed) = (first, true);
        }
        if let Some(cause) = state_dir.take_cause() {
            self.failures.note(FailedWrite::Journal, cause, self.durability_timeout, true);
        }
        self.follow_suspension();
        self.note_failure(result)
    }

    /// Returns true while flows wait in the kernel's table for a disk that takes nothing.
    pub(crate) fn is_waiting_for_disk(&self) -> bool {
        self.failures.is_journal_failing() && !self.is_in_memory()
    }

    /// From now on flows leave the kernel's table although nothing can be written: at the end nothing may wait.
    pub(crate) fn stop_waiting(&mut self) {
        self.durability_timeout = Duration::ZERO;
    }

    fn is_in_memory(&self) -> bool {
        self.state_dir.as_ref().is_some_and(StateDir::is_suspended)
    }

    /// Writes down what the rules were shown, and until when time passed, before what is told of it is.
    pub(crate) fn log_inputs(&mut self, moment: (Time, Epoch), engine: &Engine, effects: &Effects) {
        let Some(state_dir) = &mut self.state_dir else { return };
        state_dir.track_alerts(effects.alerts.iter().map(AlertEventId::of));
        let result = state_dir.log_inputs(poll_records::rule_inputs(moment, engine));
        // What cannot be written is judged again after a crash; it is no reason to stop.
        self.inputs_lost = result.is_err();
        match &result {
            Ok(()) if !self.journal_failed => self.failures.journal_recovered(),
            Ok(()) => {}
            Err(_) => {
                if self.failures.policy(self.durability_timeout) == WriteFailurePolicy::KeepInMemory {
                    state_dir.suspend();
                }
            }
        }
        let _ = self.note_failure(result);
        self.follow_suspension();
    }

    /// Alerts of an agent before are handed over.
    pub(crate) fn track_alerts(&mut self, alerts: impl IntoIterator<Item = AlertEventId>) {
        if let Some(state_dir) = &mut self.state_dir {
            state_dir.track_alerts(alerts);
        }
    }

    /// The poll is over, and the state is kept when it is time to, whatever the outputs do.
    pub(crate) fn end_poll(&mut self, kernel: &Kernel, engine: &Engine, now: Time, sinks: &Sinks) {
        if self.poll.take().is_none() && !self.inputs_lost {
            // Without that note the poll is taken for one that was not finished, and looked at again.
            let _ = self.append([JournalRecord::PollEnd]);
        }
        self.record_output_progress(sinks);
        // Outputs that work are given until the next poll: what they deliver by then need not be kept.
        let on_schedule = !sinks.outputs().is_told() && !self.failures.is_ongoing();
        let due = now >= if on_schedule { self.next + MIN_CHECKPOINT_INTERVAL } else { self.next };
        if self
            .state_dir
            .as_ref()
            .is_some_and(|state_dir| due || state_dir.needs_compaction() && !self.failures.is_ongoing())
        {
            let (started, cpu_time) = (clock::now(), clock::thread_cpu_time());
            self.write_checkpoint(kernel, engine, now, sinks);
            let (elapsed, cpu_time) =
                (clock::now().since(started), clock::thread_cpu_time().saturating_sub(cpu_time));
            let interval = if engine.stats().open_flows < SMALL_FLOW_COUNT {
                MIN_CHECKPOINT_INTERVAL
            } else {
                LARGE_CHECKPOINT_INTERVAL
            };
            // A state that takes long to keep is kept more seldom.
            let divisor = if cpu_time < LONG_CHECKPOINT { CPU_TIME_DIVISOR } else { LONG_CPU_TIME_DIVISOR };
            self.next = now + interval.max(cpu_time * divisor).max(elapsed * WALL_TIME_DIVISOR);
        }
    }

    /// Notes what the outputs have written and delivered by now.
    pub(crate) fn record_output_progress(&mut self, sinks: &Sinks) {
        let Some(state_dir) = &mut self.state_dir else { return };
        if sinks.outputs().is_told() {
            let result = state_dir.mark_delivered();
            let _ = self.note_failure(result);
        }
        // Lines that are not written for long are given up: they are in their sink's queue only.
        if sinks.outputs().is_written() || self.state_dir.as_ref().is_some_and(StateDir::is_backlog_full) {
            self.mark_written();
        }
    }

    /// Before the first poll: from here on what the files have is looked at.
    pub(crate) fn mark_output_offsets(&mut self) {
        if let Some(state_dir) = &mut self.state_dir {
            let result = state_dir.mark_output_offsets(&self.files);
            let _ = self.note_failure(result);
        }
    }

    /// From here on what the files have is looked at.
    fn mark_written(&mut self) {
        if let Some(state_dir) = &mut self.state_dir {
            let result = state_dir.mark_written(&self.files);
            let _ = self.note_failure(result);
        }
    }

    /// Keeps the state.
    pub(crate) fn write_checkpoint(&mut self, kernel: &Kernel, engine: &Engine, now: Time, sinks: &Sinks) {
        let Some(state_dir) = &mut self.state_dir else { return };
        let known = engine.known();
        let checkpoint = Checkpoint {
            flow_table_id: kernel.generation(),
            kernel: kernel.keep().into(),
            now: now.as_nanos(),
            last_poll: known.now.as_nanos(),
            fingerprint_seeds: known.seeds,
            flows: known.flows,
            rules: engine.save(),
            firing: sinks.firing(),
            pending_deliveries: sinks.outputs().untold(),
        };
        let result = state_dir.write_checkpoint(&checkpoint);
        match result {
            Ok(()) => {
                self.clear_mark();
                self.failures.end();
            }
            Err(error) => {
                let in_memory = self.is_in_memory();
                self.failures.note(
                    FailedWrite::Checkpoint,
                    error.to_string(),
                    self.durability_timeout,
                    in_memory,
                );
                // It may be the state that could be replaced, and the journal that could not.
                self.follow_suspension();
            }
        }
    }

    /// Notes a failed write.
    fn note_failure(&mut self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            let in_memory = self.is_in_memory();
            self.failures.note(FailedWrite::Journal, error.to_string(), self.durability_timeout, in_memory);
        }
        result
    }

    /// Marks the tables as ahead of the state on the disk while nothing is written.
    fn follow_suspension(&mut self) {
        let Some(state_dir) = self.state_dir.as_ref().filter(|state_dir| state_dir.is_suspended()) else {
            return;
        };
        let checkpoint = state_dir.checkpoint_time();
        let mark_stands = self.ahead.as_ref().is_none_or(|ahead| ahead.is_marked(checkpoint));
        if self.marked_checkpoint == Some(checkpoint) && mark_stands {
            return;
        }
        if let Some(ahead) = &self.ahead
            && let Err(error) = ahead.mark(checkpoint)
            && self.marked_checkpoint != Some(checkpoint)
        {
            warn!(%error, "the pinned tables cannot be marked as ahead of the state");
        }
        self.marked_checkpoint = Some(checkpoint);
    }

    fn clear_mark(&mut self) {
        if self.marked_checkpoint.take().is_some()
            && let Some(ahead) = &self.ahead
            && let Err(error) = ahead.clear()
        {
            warn!(%error, "the mark of the pinned tables cannot be removed");
        }
    }

    /// The state on the disk, for people; none where none is kept.
    pub(crate) fn durability(&self) -> Option<Durability> {
        let state_dir = self.state_dir.as_ref()?;
        Some(self.failures.status(state_dir.is_suspended()))
    }

    /// Bytes of the state's files, and the failures to write them so far.
    pub(crate) fn usage(&self) -> Option<(u64, u64)> {
        self.state_dir.as_ref().map(|state_dir| (state_dir.bytes(), self.failures.failures()))
    }
}
