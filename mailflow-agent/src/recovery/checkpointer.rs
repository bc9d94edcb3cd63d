//! Checkpointer: writes the journal, the input log and the checkpoint during polls.
//!
//! A flow is in the journal before it is evicted from the kernel map. If nothing can be written, flows stay
//! in the map for `state.durability_timeout`. After that they are evicted without a journal, and rules,
//! alerts and outputs continue. Before the first such eviction the pinned maps are marked as ahead of the
//! checkpoint ([`StaleCheckpointMark`]). Durability returns with a new checkpoint, and the journal is used again only
//! after it.

use std::{io, path::PathBuf, time::Duration};

use tracing::warn;

use super::{
    durability::{FailedWrite, WriteFailures},
    poll_records,
    state_dir::{AlertEventId, Checkpoint, JournalRecord, StateDir, WriteFailurePolicy},
};
use crate::{
    config::{AlertDestination, Config, FlowDestination, Target},
    control::Durability,
    outputs::router::EffectRouter,
};
use mailflow_engine::{
    Engine,
    event::Effects,
    time::{Time, WallClockOffset},
};
use mailflow_kernel::clock;
use mailflow_kernel::{Kernel, StaleCheckpointMark};

/// Interval of checkpoints while they are small.
const MIN_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of checkpoints while they are large.
const LARGE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// Checkpoints take at most 1/200 of the time of a CPU.
const CPU_TIME_DIVISOR: u32 = 200;
/// Checkpoints that take long take at most 1/500 of the time of a CPU. With the polls, a million idle
/// sources then cost less than 1 % of a core. The length of the journal is bounded anyway, see
/// [`StateDir::needs_compaction`].
const LONG_CPU_TIME_DIVISOR: u32 = 500;
/// CPU time from which on a checkpoint takes long.
const LONG_CHECKPOINT: Duration = Duration::from_millis(200);
/// Polls wait for the disk and for other processes at most 1/20 of the time.
const WALL_TIME_DIVISOR: u32 = 20;
/// Number of open flows below which a checkpoint is small.
const SMALL_FLOW_COUNT: u64 = 5_000;

/// Coordinator of the state directory, if there is one.
pub(crate) struct Checkpointer {
    state_dir: Option<StateDir>,
    /// Files that the outputs write to.
    files: Vec<PathBuf>,
    next: Time,
    poll: Option<JournalRecord>,
    /// Time that flows wait in the kernel map while nothing can be written.
    durability_timeout: Duration,
    /// Mark that pinned maps are ahead of the checkpoint; `None` if they are not pinned.
    ahead: Option<StaleCheckpointMark>,
    /// Checkpoint of the current mark.
    marked_checkpoint: Option<Option<u64>>,
    failures: WriteFailures,
    /// True if the rule inputs of this poll could not be written.
    inputs_lost: bool,
    /// True if journal records of this poll could not be written.
    journal_failed: bool,
}

impl Checkpointer {
    /// Creates a checkpointer that writes nothing.
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

    /// Creates a checkpointer for `state_dir`, which cannot be written if there is a `write_error`. `ahead`
    /// marks the maps.
    pub(crate) fn new(
        state_dir: Option<StateDir>,
        ahead: Option<StaleCheckpointMark>,
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

    /// Applies a new configuration.
    pub(crate) fn apply_config(&mut self, config: &Config) {
        let alerts = config.outputs.alerts.iter().map(|output| match &output.to {
            AlertDestination::Lines { target, .. } => Some(target),
            _ => None,
        });
        let flows = config.outputs.flow_log.iter().map(|output| match &output.to {
            FlowDestination::Lines { target, .. } => Some(target),
            FlowDestination::Ipfix(_) => None,
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

    /// Begins a poll. `epoch` is the clock offset of its output lines.
    pub(crate) fn begin_poll(&mut self, now: Time, epoch: WallClockOffset) {
        self.journal_failed = false;
        self.poll = Some(JournalRecord::PollBegin { now, epoch: epoch.unix_nanos(Time::ZERO) });
    }

    /// Appends records to the journal, before the poll does what they describe.
    ///
    /// # Errors
    /// Fails if the records cannot be written. The poll must not do what they describe.
    pub(crate) fn append(&mut self, records: impl IntoIterator<Item = JournalRecord>) -> io::Result<()> {
        let Some(state_dir) = &mut self.state_dir else { return Ok(()) };
        let mut records = records.into_iter().peekable();
        if records.peek().is_none() {
            return Ok(());
        }
        let first = self.poll.take();
        let policy = self.failures.policy(self.durability_timeout);
        let result = state_dir.append(first.iter().cloned().chain(records), policy);
        if result.is_err() {
            (self.poll, self.journal_failed) = (first, true);
        }
        if let Some(cause) = state_dir.take_cause() {
            self.failures.note(FailedWrite::Journal, cause, self.durability_timeout, true);
        }
        self.follow_suspension();
        self.note_failure(result)
    }

    /// Returns true while flows wait in the kernel map because nothing can be written.
    pub(crate) fn is_waiting_for_disk(&self) -> bool {
        self.failures.is_journal_failing() && !self.is_in_memory()
    }

    /// Evicts flows from now on even if nothing can be written, as for a shutdown.
    pub(crate) fn stop_waiting(&mut self) {
        self.durability_timeout = Duration::ZERO;
    }

    fn is_in_memory(&self) -> bool {
        self.state_dir.as_ref().is_some_and(StateDir::is_suspended)
    }

    /// Logs the rule inputs of a poll and its time, before its alerts are emitted.
    pub(crate) fn log_inputs(&mut self, moment: (Time, WallClockOffset), engine: &Engine, effects: &Effects) {
        let Some(state_dir) = &mut self.state_dir else { return };
        state_dir.track_alerts(effects.alerts.iter().map(AlertEventId::of));
        let result = state_dir.log_inputs(poll_records::rule_inputs(moment, engine));
        // After a crash the inputs that are not in the log are evaluated again from the journal, so this is
        // no reason to stop.
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

    /// Tracks alerts of recovery or of a reload until they are delivered.
    pub(crate) fn track_alerts(&mut self, alerts: impl IntoIterator<Item = AlertEventId>) {
        if let Some(state_dir) = &mut self.state_dir {
            state_dir.track_alerts(alerts);
        }
    }

    /// Journals the end of the poll, if all of its records are in the journal and its inputs in the input log. Without
    /// that, recovery looks up the flows of the poll in the maps.
    pub(crate) fn complete_poll(&mut self) {
        if self.poll.take().is_none() && !self.inputs_lost && !self.journal_failed {
            let _ = self.append([JournalRecord::PollEnd]);
        }
    }

    /// Ends the poll, and writes a checkpoint if it is due. Outputs that are slow do not delay it forever.
    pub(crate) fn end_poll(&mut self, kernel: &Kernel, engine: &Engine, now: Time, sinks: &EffectRouter) {
        self.complete_poll();
        self.record_output_progress(sinks);
        // Outputs that deliver get until the next interval. The checkpoint does not need what they deliver
        // until then.
        let may_defer = !sinks.outputs().alerts_delivered() && !self.failures.is_ongoing();
        let due = now >= if may_defer { self.next + MIN_CHECKPOINT_INTERVAL } else { self.next };
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
            let divisor = if cpu_time < LONG_CHECKPOINT { CPU_TIME_DIVISOR } else { LONG_CPU_TIME_DIVISOR };
            self.next = now + interval.max(cpu_time * divisor).max(elapsed * WALL_TIME_DIVISOR);
        }
    }

    /// Records the lines that the outputs have written, and the alerts that they have delivered.
    pub(crate) fn record_output_progress(&mut self, sinks: &EffectRouter) {
        let Some(state_dir) = &mut self.state_dir else { return };
        if sinks.outputs().alerts_delivered() {
            let result = state_dir.mark_delivered();
            let _ = self.note_failure(result);
        }
        // Lines that are not written for a long time are dropped from the backlog. They remain in the queue
        // of the output.
        if sinks.outputs().files_flushed() || self.state_dir.as_ref().is_some_and(StateDir::is_backlog_full) {
            self.mark_written();
        }
    }

    /// Records the offsets of the output files before the first poll, for recovery.
    pub(crate) fn mark_output_offsets(&mut self) {
        if let Some(state_dir) = &mut self.state_dir {
            let result = state_dir.mark_output_offsets(&self.files);
            let _ = self.note_failure(result);
        }
    }

    /// Records the offsets of the output files, when all lines are written or dropped from the backlog.
    fn mark_written(&mut self) {
        if let Some(state_dir) = &mut self.state_dir {
            let result = state_dir.mark_written(&self.files);
            let _ = self.note_failure(result);
        }
    }

    /// Writes a checkpoint.
    pub(crate) fn write_checkpoint(
        &mut self,
        kernel: &Kernel,
        engine: &Engine,
        now: Time,
        sinks: &EffectRouter,
    ) {
        let Some(state_dir) = &mut self.state_dir else { return };
        let checkpoint = Checkpoint {
            flow_table_id: kernel.generation(),
            kernel: kernel.checkpoint(),
            now: now.as_nanos(),
            flows: engine.checkpoint_flows(),
            rules: engine.save(),
            pending_deliveries: sinks.outputs().undelivered(),
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
                // The checkpoint may have been replaced although the journal could not be.
                self.follow_suspension();
            }
        }
    }

    /// Counts a failed write.
    fn note_failure(&mut self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            let in_memory = self.is_in_memory();
            self.failures.note(FailedWrite::Journal, error.to_string(), self.durability_timeout, in_memory);
        }
        result
    }

    /// Marks the pinned maps as ahead of the checkpoint on disk while nothing is written.
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
            warn!(%error, "failed to mark the pinned maps as ahead of the state");
        }
        self.marked_checkpoint = Some(checkpoint);
    }

    fn clear_mark(&mut self) {
        if self.marked_checkpoint.take().is_some()
            && let Some(ahead) = &self.ahead
            && let Err(error) = ahead.clear()
        {
            warn!(%error, "failed to remove the mark of the pinned maps");
        }
    }

    /// Returns the durability for the status; `None` without a state directory.
    pub(crate) fn durability(&self) -> Option<Durability> {
        let state_dir = self.state_dir.as_ref()?;
        Some(self.failures.status(state_dir.is_suspended()))
    }

    /// Returns the bytes of the state files, and the number of write failures.
    pub(crate) fn usage(&self) -> Option<(u64, u64)> {
        self.state_dir.as_ref().map(|state_dir| (state_dir.bytes(), self.failures.failures()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        recovery::{
            checkpoint::JOURNAL_FILE,
            directory::LockedDirectory,
            journal::{record::tests::some_flow, record_file},
        },
        util::disk::FileLimits,
    };
    use mailflow_engine::checkpoint::codec;

    #[test]
    fn a_poll_with_a_lost_record_has_no_end() {
        let path = std::env::temp_dir().join(format!("mailflow-poll-end-{}", std::process::id()));
        let (state_dir, _) = StateDir::open(&path, FileLimits::NONE, 1).unwrap();
        let config = config::parse("f", "{}").unwrap();
        let mut checkpointer = Checkpointer::new(Some(state_dir), None, None, &config);
        let mut poll = |seconds: u64, limits: FileLimits| {
            let set_limits = |checkpointer: &mut Checkpointer, limits| {
                checkpointer.state_dir.as_mut().unwrap().set_limits(limits);
            };
            set_limits(&mut checkpointer, FileLimits::NONE);
            checkpointer.begin_poll(Time::from_nanos(seconds), WallClockOffset::default());
            checkpointer.append([JournalRecord::FlowEnded(some_flow(1))]).unwrap();
            set_limits(&mut checkpointer, limits);
            let rejected = checkpointer.append([JournalRecord::EvictionRejected(some_flow(1))]);
            set_limits(&mut checkpointer, FileLimits::NONE);
            checkpointer.complete_poll();
            rejected.is_ok()
        };
        assert!(!poll(1, FileLimits { max_size: 1, ..FileLimits::NONE }));
        assert!(poll(2, FileLimits::NONE));
        let directory = LockedDirectory::open_unlocked(&path);
        let journal = record_file::read(&directory, JOURNAL_FILE).unwrap().records;
        let journal: Vec<JournalRecord> =
            journal.iter().map(|record| codec::decode(record).unwrap()).collect();
        let begin = |nanos| JournalRecord::PollBegin { now: Time::from_nanos(nanos), epoch: 0 };
        let expected = [
            begin(1),
            JournalRecord::FlowEnded(some_flow(1)),
            begin(2),
            JournalRecord::FlowEnded(some_flow(1)),
            JournalRecord::EvictionRejected(some_flow(1)),
            JournalRecord::PollEnd,
        ];
        assert_eq!(journal, expected);
        std::fs::remove_dir_all(path).unwrap();
    }
}
