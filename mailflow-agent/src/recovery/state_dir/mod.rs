//! State directory: the files that outlive the process of the agent.
//!
//! ```text
//! state          checkpoint; replaced as a whole, by renaming
//! journal        write-ahead journal: changes of polls to the kernel maps, since the checkpoint
//! history-*      input log: rule inputs and delivered alerts, since the checkpoint
//! ```
//!
//! **No flow is lost, and no alert is emitted twice.** A flow is in the journal before it is evicted from
//! its map, and is accounted for after that. So at the start, a journalled flow that is still in its map was
//! not accounted for, and is left for the next poll. A flow that is gone is accounted for from the journal.
//! The state of the rules follows from the records in order: records since the checkpoint are evaluated
//! again, and an alert that was delivered is not emitted again. Lines that are already in an output file are
//! not written again.
//!
//! **Without durability.** If the files cannot be written ([`WriteFailurePolicy::KeepInMemory`]), records
//! are kept in memory. They are written again after a new checkpoint: the checkpoint is replaced first, then
//! the journal, so that no earlier record is replayed on top of it.
//!
//! Nothing is synced to the disk: the files protect against the end of the process, not against a power
//! failure.

pub use super::{
    checkpoint::Checkpoint,
    error::{StateError, WriteFailurePolicy},
    journal::{
        input_log::{AlertEventId, InputLogRecord, LoggedInput},
        output_offsets::WrittenLines,
        record::JournalRecord,
    },
    recovered::RecoveredState,
};
use super::{
    checkpoint::{CHECKPOINT_FILE, CheckpointHeader, FORMAT_VERSION, JOURNAL_FILE},
    directory::LockedDirectory,
    journal::{
        input_log::InputLog,
        record_file::{Appender, RecordBuffer},
    },
    machine_id::MachineId,
};

#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use crate::outputs::pending_delivery::PendingDelivery;
use crate::util::disk::{FileLimits, is_disk_failure};

/// Name of the setting, for errors.
const MIN_FREE_SETTING: &str = "state.min_free";
/// Largest number of tracked alerts while no checkpoint is written.
const MAX_TRACKED_ALERTS: usize = 1_000;
/// Length of the journal from which on a checkpoint is written early.
const JOURNAL_COMPACT_BYTES: u64 = 16 << 20;
/// Largest size of the records whose lines are not written. Further lines are dropped from the backlog.
const MAX_BACKLOG_BYTES: usize = 4 << 20;

/// Locked state directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    limits: FileLimits,
    boot: String,
    machine: MachineId,
    /// Open files; `None` if the directory could not be opened.
    files: Option<StateFiles>,
    /// Time of the checkpoint in the directory, if there is one.
    checkpoint_time: Option<u64>,
    /// Bytes of that checkpoint.
    checkpoint_bytes: u64,
    /// True while records are kept in memory only.
    suspended: bool,
    /// Cause of the suspension, until it is taken.
    cause: Option<String>,
    /// Journal records since all outputs had written their lines.
    backlog: RecordBuffer,
    /// Alerts that were passed to the outputs since all of them were delivered.
    undelivered: Vec<AlertEventId>,
}

#[derive(Debug)]
struct StateFiles {
    directory: LockedDirectory,
    /// Journal; `None` until it could be opened.
    journal: Option<Appender>,
    input_log: InputLog,
}

impl StateDir {
    /// Opens a directory, and reads the state of the previous process. Creates the directory if it is
    /// missing. If the disk cannot be written, that is no error: the directory is suspended, and
    /// [`RecoveredState::write_error`] has the cause.
    ///
    /// # Errors
    /// Fails if another agent uses the directory, other users may write to it, or the system refuses it for a
    /// reason that does not pass.
    pub fn open(
        path: &Path,
        limits: FileLimits,
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
            Err(StateError::Io { source, .. }) if is_disk_failure(&source) => {
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

    /// Appends records to the journal.
    ///
    /// # Errors
    /// Fails if they cannot be written or a limit is reached, and `on_failure` is
    /// [`WriteFailurePolicy::Fail`]. Then none of them is in the file.
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
                Some(journal) => journal.add(&record),
                None => {
                    buffer.clear(0);
                    buffer.add(&record)
                }
            };
            let framed = framed.map_err(io::Error::other)?;
            // The lines of further records are not repeated after a crash.
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

    /// Writes records to the input log: rule inputs, clock offset and time. Does nothing while suspended.
    ///
    /// # Errors
    /// Fails if they cannot be written, or a limit is reached.
    pub fn log_inputs(&mut self, records: impl IntoIterator<Item = InputLogRecord>) -> io::Result<()> {
        let Some(files) = self.files.as_mut().filter(|_| !self.suspended) else { return Ok(()) };
        files.check_limits(&self.limits, self.checkpoint_bytes)?;
        files.input_log.write(&files.directory, records)
    }

    /// Tracks alerts that are passed to the outputs.
    pub fn track_alerts(&mut self, alerts: impl IntoIterator<Item = AlertEventId>) {
        self.undelivered.extend(alerts);
        if self.suspended {
            // No checkpoint empties the list meanwhile.
            let surplus = self.undelivered.len().saturating_sub(MAX_TRACKED_ALERTS);
            self.undelivered.drain(..surplus);
        }
    }

    /// Logs that all tracked alerts are delivered.
    ///
    /// # Errors
    /// Fails if that cannot be written.
    pub fn mark_delivered(&mut self) -> io::Result<()> {
        let delivered = std::mem::take(&mut self.undelivered);
        self.log_inputs(delivered.into_iter().map(InputLogRecord::AlertDelivered))
    }

    /// Journals that the outputs have written all lines, with the offsets of `files`.
    ///
    /// # Errors
    /// Fails if that cannot be written.
    pub fn mark_written(&mut self, files: &[PathBuf]) -> io::Result<()> {
        // The first record of the backlog is the last such mark.
        if self.backlog.len() <= 1 {
            return Ok(());
        }
        self.mark_output_offsets(files)
    }

    /// Journals the offsets of `files`, even if no line was written since the last mark.
    ///
    /// # Errors
    /// Fails if that cannot be written.
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
            // The offsets are valid although they could not be written. The next journal begins with them.
            self.backlog.add(&record).map_err(io::Error::other)?;
        }
        result
    }

    /// Returns true if the backlog exceeds its limit.
    pub fn is_backlog_full(&self) -> bool {
        self.backlog.bytes().len() > MAX_BACKLOG_BYTES
    }

    /// Returns true if a checkpoint should be written early, as the journal is long.
    pub fn needs_compaction(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.journal_bytes() > JOURNAL_COMPACT_BYTES)
    }

    /// Keeps records in memory from now on, until [`StateDir::write_checkpoint`] succeeds.
    pub fn suspend(&mut self) {
        self.suspended = true;
    }

    /// Returns the cause of a suspension, once.
    pub fn take_cause(&mut self) -> Option<String> {
        self.cause.take()
    }

    /// Sets other limits.
    pub fn set_limits(&mut self, limits: FileLimits) {
        self.limits = limits;
    }

    /// Returns true while records are kept in memory only.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Returns the time of the checkpoint in the directory, if there is one.
    pub fn checkpoint_time(&self) -> Option<u64> {
        self.checkpoint_time
    }

    /// Returns the bytes of the checkpoint, the journal and the input log.
    pub fn bytes(&self) -> u64 {
        self.checkpoint_bytes
            + self.files.as_ref().map_or(0, |files| files.journal_bytes() + files.input_log.bytes())
    }

    /// Returns true if the path still leads to the open directory, or if none could be opened.
    pub fn is_in_place(&self) -> bool {
        self.files.as_ref().is_none_or(|files| files.directory.is_in_place())
    }

    /// Replaces the checkpoint. Keeps records of lines that are not written and of alerts that are not
    /// delivered. Creates the directory again if it was removed. Ends a suspension.
    ///
    /// # Errors
    /// Fails if the system refuses, or a limit is reached. The directory then holds the previous checkpoint
    /// with its journal and input log, or the new one.
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
                "the state directory was removed or replaced; creating it again with the current state"
            );
            // The lock is on a directory that no process can open by this path any more.
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
        // The old and the new checkpoint exist together for a moment. Little remains of the journal and the
        // input log.
        if size + self.checkpoint_bytes > self.limits.max_size {
            let (size, limit) = (size + self.checkpoint_bytes, self.limits.max_size);
            return Err(StateError::SizeLimit { path, size, limit });
        }
        let new =
            super::journal::record_file::stage(directory, CHECKPOINT_FILE, [&buffer]).map_err(io_error)?;
        let mut checkpoint_record = RecordBuffer::default();
        let before = journal.bytes();
        let finished = (|| {
            // The journal gets the mark before the rename, so that a crash at any point accounts for no flow
            // twice.
            checkpoint_record
                .push(journal.add(&JournalRecord::Checkpoint(checkpoint.now)).map_err(io::Error::other)?);
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
        // While outputs lag, the journal is not rewritten at each checkpoint.
        if self.suspended || self.backlog.len() <= 1 || journal.bytes() > JOURNAL_COMPACT_BYTES {
            super::journal::record_file::replace(
                directory,
                JOURNAL_FILE,
                [&self.backlog, &checkpoint_record],
            )
            .map_err(io_error)?;
            *journal = Appender::open(directory, JOURNAL_FILE).map_err(io_error)?;
        }
        // The checkpoint has those earlier alerts that are still to be delivered.
        let pending: Vec<AlertEventId> =
            checkpoint.pending_deliveries.iter().map(|pending| AlertEventId::of(&pending.alert)).collect();
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

    /// Opens the files. Removes existing ones if they are to start empty.
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

    /// Returns an error if the added journal records would exceed a limit. `state` is the size of the
    /// checkpoint.
    fn check_limits(&self, limits: &FileLimits, state: u64) -> io::Result<()> {
        let more = self.journal.as_ref().map_or(0, Appender::pending_bytes);
        let size = state + self.journal_bytes() + self.input_log.bytes() + more;
        if size > limits.max_size {
            let text = format!("state.max_size is {}, and {size} bytes are needed", limits.max_size);
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        limits.min_free.check(self.directory.file(), more, MIN_FREE_SETTING)
    }
}
