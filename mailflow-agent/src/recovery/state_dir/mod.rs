//! What outlives the agent's process, in a directory of its own.
//!
//! ```text
//! state          how far it had come: rewritten as a whole, by renaming
//! journal        what each poll does to the kernel's tables, before it does it; since the last state
//! history-*      the records that the rules have judged and the alerts that were told; since the last state
//! ```
//!
//! **What is never lost, nor told twice.** A flow is in the journal before it is taken out of its table, and
//! is booked after that. So at start an entry of the journal that is still in its table was not booked, and
//! is left for the next reading; one that is gone is booked from the journal. What the rules know follows from
//! the records in their order: those since the state are judged again, and an alert that was told is not told
//! again. Lines that a file has already are not written to it again.
//!
//! **Without durability.** Where the files cannot be written ([`WriteFailurePolicy::InMemory`]), entries are kept in memory only. They
//! are written again from a fresh state on: the state is replaced first, then the journal, so that no entry from before
//! is replayed over it.
//!
//! Nothing is forced to the disk: this is against the death of the process, not of the machine.

use super::{
    checkpoint::{CHECKPOINT_FILE, CheckpointHeader, FORMAT_VERSION, JOURNAL_FILE},
    directory::LockedDirectory,
    journal::{
        input_log::InputLog,
        record_file::{Appender, RecordBuffer},
    },
    machine_id::MachineId,
};
pub use super::{
    checkpoint::{Checkpoint, KernelCheckpointRepr},
    error::{StateError, WriteFailurePolicy},
    journal::{
        input_log::{AlertEventId, InputLogRecord},
        output_offsets::WrittenLines,
        record::{JournalRecord, LoggedInput},
    },
    recovered::RecoveredState,
};

#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use crate::outputs::pending_delivery::{Event, Untold};
use crate::util::disk::{Limits, takes_nothing};

/// The setting, as errors name it.
const MIN_FREE_SETTING: &str = "state.min_free";
/// Most alerts that are remembered as handed over while no state forgets them.
const MAX_TRACKED_ALERTS: usize = 1_000;
/// A journal this long asks for a state.
const JOURNAL_COMPACT_BYTES: u64 = 16 << 20;
/// Entries whose lines are not written take at most this much; beyond it those lines are given up.
const MAX_BACKLOG_BYTES: usize = 4 << 20;

/// The directory, locked.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    limits: Limits,
    boot: String,
    machine: MachineId,
    /// The files; none where there is no directory.
    files: Option<StateFiles>,
    /// The moment of the state in the directory; none where there is none.
    checkpoint_time: Option<u64>,
    /// Bytes of that state.
    checkpoint_bytes: u64,
    /// Entries are kept in memory only.
    suspended: bool,
    /// Why that began, until it is asked for.
    cause: Option<String>,
    /// The journal's entries since the outputs had written all.
    backlog: RecordBuffer,
    /// Alerts handed over since all of them were delivered.
    undelivered: Vec<AlertEventId>,
}

#[derive(Debug)]
struct StateFiles {
    directory: LockedDirectory,
    /// None until it could be opened.
    journal: Option<Appender>,
    input_log: InputLog,
}

impl StateDir {
    /// Opens a directory, which is made where it is missing, and reads what an agent before left. A directory on a
    /// disk that takes nothing is no error: the store is suspended then, and [`RecoveredState::trouble`] says why.
    ///
    /// # Errors
    /// Another agent uses it, others may write to it, or the system refuses it for good.
    pub fn open(
        path: &Path,
        limits: Limits,
        unix_seconds: u64,
    ) -> Result<(Self, RecoveredState), StateError> {
        let io_error = |source| StateError::Io { path: path.to_owned(), source };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(io_error)?.trim().to_owned();
        let mut store = Self {
            path: path.to_owned(),
            limits,
            boot,
            machine: MachineId::of_this_machine(),
            files: None,
            checkpoint_time: None,
            checkpoint_bytes: 0,
            suspended: false,
            cause: None,
            backlog: RecordBuffer::default(),
            undelivered: Vec::new(),
        };
        let directory = match LockedDirectory::open(path) {
            Ok(directory) => directory,
            Err(StateError::Io { source, .. }) if takes_nothing(&source) => {
                store.suspended = true;
                let write_error = Some(io_error(source).to_string());
                return Ok((store, RecoveredState { write_error, ..RecoveredState::default() }));
            }
            Err(error) => return Err(error),
        };
        let mut recovered = RecoveredState::read(&directory, (&store.boot, &store.machine), unix_seconds);
        store.checkpoint_time = recovered.checkpoint.as_ref().map(|checkpoint| checkpoint.now);
        store.checkpoint_bytes = recovered.bytes;
        let mut files = StateFiles::new(directory);
        if let Err(source) = files.open(recovered.checkpoint.is_none()) {
            store.suspended = true;
            recovered.write_error = Some(io_error(source).to_string());
        }
        store.files = Some(files);
        Ok((store, recovered))
    }

    /// Writes entries to the journal.
    ///
    /// # Errors
    /// The system refuses, or a bound is reached, and `otherwise` is [`WriteFailurePolicy::Refused`]; then nothing of it is
    /// there.
    pub fn append(
        &mut self,
        records: impl IntoIterator<Item = JournalRecord>,
        on_failure: WriteFailurePolicy,
    ) -> io::Result<()> {
        let (count, bytes) = (self.backlog.len(), self.backlog.bytes().len());
        let result = self.write_records(records);
        if let Err(error) = &result {
            if let Some(StateFiles { journal: Some(journal), .. }) = &mut self.files {
                journal.discard_pending();
            }
            if on_failure == WriteFailurePolicy::KeepInMemory {
                self.suspended = true;
                self.cause = Some(error.to_string());
                return Ok(());
            }
            self.backlog.truncate(count, bytes);
        }
        result
    }

    fn write_records(&mut self, records: impl IntoIterator<Item = JournalRecord>) -> io::Result<()> {
        let mut buffer = RecordBuffer::default();
        let mut journal = match &mut self.files {
            Some(StateFiles { journal: Some(journal), .. }) if !self.suspended => Some(journal),
            _ => None,
        };
        for record in records {
            let framed = match &mut journal {
                Some(journal) => journal.add(&record.to_repr()),
                None => {
                    buffer.clear(0);
                    buffer.add(&record.to_repr())
                }
            };
            let framed = framed.map_err(io::Error::other)?;
            // More of them are given up.
            if self.backlog.bytes().len() <= MAX_BACKLOG_BYTES {
                self.backlog.push(framed);
            }
        }
        if self.suspended {
            return Ok(());
        }
        let closed = || io::Error::other("the journal could not be opened");
        let files = self.files.as_mut().ok_or_else(closed)?;
        files.check_limits(&self.limits, self.checkpoint_bytes)?;
        files.journal.as_mut().ok_or_else(closed)?.write()
    }

    /// Writes to the history what the rules have judged, by which clock, and until when time passed. Nothing while the
    /// store is suspended.
    ///
    /// # Errors
    /// The system refuses, or a bound is reached.
    pub fn log_inputs(&mut self, records: impl IntoIterator<Item = InputLogRecord>) -> io::Result<()> {
        let Some(files) = self.files.as_mut().filter(|_| !self.suspended) else { return Ok(()) };
        files.check_limits(&self.limits, self.checkpoint_bytes)?;
        files.input_log.write(&files.directory, records)
    }

    /// Alerts were handed to the outputs.
    pub fn track_alerts(&mut self, alerts: impl IntoIterator<Item = AlertEventId>) {
        self.undelivered.extend(alerts);
        if self.suspended {
            // No state forgets them meanwhile.
            let surplus = self.undelivered.len().saturating_sub(MAX_TRACKED_ALERTS);
            self.undelivered.drain(..surplus);
        }
    }

    /// All alerts that were handed over are delivered.
    ///
    /// # Errors
    /// The system refuses.
    pub fn mark_delivered(&mut self) -> io::Result<()> {
        let delivered = std::mem::take(&mut self.undelivered);
        self.log_inputs(delivered.into_iter().map(InputLogRecord::AlertDelivered))
    }

    /// The outputs have written all lines that they were handed; `files` are those that they write to.
    ///
    /// # Errors
    /// The system refuses.
    pub fn mark_written(&mut self, files: &[PathBuf]) -> io::Result<()> {
        // The first is the last such note.
        if self.backlog.len() <= 1 {
            return Ok(());
        }
        self.mark_output_offsets(files)
    }

    /// The same, whether there was anything or not: from here on the files' lines are looked at.
    ///
    /// # Errors
    /// The system refuses.
    pub fn mark_output_offsets(&mut self, files: &[PathBuf]) -> io::Result<()> {
        let record = JournalRecord::OutputsWritten(
            files
                .iter()
                .filter_map(|file| super::journal::output_offsets::FileOffset::current(file))
                .collect(),
        );
        self.backlog.clear(0);
        let result = self.append([record.clone()], WriteFailurePolicy::Fail);
        if result.is_err() {
            // What the files have is so whether it can be written down or not; the next journal begins with it.
            self.backlog.add(&record.to_repr()).map_err(io::Error::other)?;
        }
        result
    }

    /// Returns true if there is more that the outputs have not written than is kept for them.
    pub fn is_backlog_full(&self) -> bool {
        self.backlog.bytes().len() > MAX_BACKLOG_BYTES
    }

    /// Returns true if a state should be kept even if that takes a while.
    pub fn needs_compaction(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.journal_bytes() > JOURNAL_COMPACT_BYTES)
    }

    /// From now on entries are kept in memory, until [`StateDir::keep`] succeeds.
    pub fn suspend(&mut self) {
        self.suspended = true;
    }

    /// Why entries are kept in memory from now on, once.
    pub fn take_cause(&mut self) -> Option<String> {
        self.cause.take()
    }

    /// Other limits hold from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Returns true while entries are kept in memory only.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// The moment of the state in the directory; none where there is none.
    pub fn checkpoint_time(&self) -> Option<u64> {
        self.checkpoint_time
    }

    /// Bytes of the state, the journal and the history.
    pub fn bytes(&self) -> u64 {
        self.checkpoint_bytes
            + self.files.as_ref().map_or(0, |files| files.journal_bytes() + files.input_log.bytes())
    }

    /// Returns true if the directory is where it was opened; where it could not be opened there is none to miss.
    pub fn is_in_place(&self) -> bool {
        self.files.as_ref().is_none_or(|files| files.directory.is_in_place())
    }

    /// Replaces the state. What the outputs have not written or delivered stays known. A directory that was removed
    /// is made again. Afterwards the store is not suspended any more.
    ///
    /// # Errors
    /// The system refuses, or a bound is reached. Then the state in the directory is the one before, with the journal
    /// and the history since then, or this one.
    pub fn write_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), StateError> {
        let path = self.path.clone();
        let io_error = |source| StateError::Io { path: path.clone(), source };
        let mut buffer = RecordBuffer::default();
        buffer.add(&CheckpointHeader { version: FORMAT_VERSION, boot: self.boot.clone() })?;
        buffer.add(checkpoint)?;
        buffer.add(&self.machine)?;
        if !self.is_in_place() {
            tracing::warn!(
                directory = %self.path.display(),
                "the state directory was removed or replaced; it is made again with what the agent knows"
            );
            // Its lock is on a directory that nobody can open by this name any more.
            self.files = None;
            (self.checkpoint_time, self.checkpoint_bytes) = (None, 0);
        }
        let files = match &mut self.files {
            Some(files) => files,
            none => none.insert(StateFiles::new(LockedDirectory::open(&self.path)?)),
        };
        if files.journal.is_none() {
            files.open(self.checkpoint_time.is_none()).map_err(io_error)?;
        }
        let StateFiles { directory, journal: Some(journal), input_log } = files else {
            return Err(io_error(io::Error::other("the journal could not be opened")));
        };
        let size = buffer.bytes().len() as u64;
        self.limits.min_free.check(directory.file(), size, MIN_FREE_SETTING).map_err(io_error)?;
        // The old state and the new one are there together for a moment; of the journal and the history little is left.
        if size + self.checkpoint_bytes > self.limits.max_size {
            let (size, limit) = (size + self.checkpoint_bytes, self.limits.max_size);
            return Err(StateError::SizeLimit { path, size, limit });
        }
        let new =
            super::journal::record_file::stage(directory, CHECKPOINT_FILE, [&buffer]).map_err(io_error)?;
        let mut checkpoint_record = RecordBuffer::default();
        let before = journal.bytes();
        let finished = (|| {
            // The journal first says that the state has it all, so that nothing is booked twice whenever this ends.
            checkpoint_record.push(
                journal
                    .add(&JournalRecord::Checkpoint(checkpoint.now).to_repr())
                    .map_err(io::Error::other)?,
            );
            journal.write()?;
            input_log.write(directory, [InputLogRecord::Checkpoint(checkpoint.now)])?;
            directory.rename(&new, CHECKPOINT_FILE)
        })();
        if let Err(error) = finished {
            let _ = directory.remove(&new);
            let _ = journal.truncate(before);
            return Err(io_error(error));
        }
        (self.checkpoint_time, self.checkpoint_bytes) = (Some(checkpoint.now), size);
        // While outputs are behind it is not written anew each time.
        if self.suspended || self.backlog.len() <= 1 || journal.bytes() > JOURNAL_COMPACT_BYTES {
            super::journal::record_file::replace(
                directory,
                JOURNAL_FILE,
                [&self.backlog, &checkpoint_record],
            )
            .map_err(io_error)?;
            *journal = Appender::open(directory, JOURNAL_FILE).map_err(io_error)?;
        }
        // Of the alerts before, the state has those that are to be told yet.
        let pending: Vec<AlertEventId> = checkpoint
            .pending_deliveries
            .iter()
            .map(|pending| AlertEventId::of(&pending.event.event().0))
            .collect();
        self.undelivered.retain(|delivered| pending.contains(delivered));
        input_log.clear(directory).map_err(io_error)?;
        self.suspended = false;
        Ok(())
    }
}

impl StateFiles {
    fn new(directory: LockedDirectory) -> Self {
        Self { directory, journal: None, input_log: InputLog::default() }
    }

    /// Opens the files; where they are to begin empty, what is there goes.
    fn open(&mut self, empty: bool) -> io::Result<()> {
        self.input_log = InputLog::open(&self.directory)?;
        if empty {
            self.input_log.clear(&self.directory)?;
            super::journal::record_file::replace(&self.directory, JOURNAL_FILE, [])?;
        }
        self.journal = Some(Appender::open(&self.directory, JOURNAL_FILE)?);
        Ok(())
    }

    fn journal_bytes(&self) -> u64 {
        self.journal.as_ref().map_or(0, Appender::bytes)
    }

    /// Returns an error if what was added to the journal would reach a bound. `state` are the bytes of the state.
    fn check_limits(&self, limits: &Limits, state: u64) -> io::Result<()> {
        let more = self.journal.as_ref().map_or(0, Appender::pending_bytes);
        let size = state + self.journal_bytes() + self.input_log.bytes() + more;
        if size > limits.max_size {
            let text = format!("state.max_size is {}, and {size} bytes are needed", limits.max_size);
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        limits.min_free.check(self.directory.file(), more, MIN_FREE_SETTING)
    }
}
