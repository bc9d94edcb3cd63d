//! Reads the state files of the previous process. A file that cannot be used is set aside with its cause,
//! and the start continues.

use std::io;

use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::{
    checkpoint::{CHECKPOINT_FILE, Checkpoint, CheckpointHeader, FORMAT_VERSION, JOURNAL_FILE},
    directory::LockedDirectory,
    journal::{
        input_log::{self, InputLog, InputLogRecord},
        output_offsets::WrittenLines,
        record::JournalRecord,
        record_file::{self, DamageKind, FileRecords},
    },
    machine_id::MachineId,
};
use mailflow_engine::checkpoint::codec;

/// State of the previous process.
#[derive(Debug, Default)]
pub struct RecoveredState {
    /// Checkpoint; `None` at the first start, after a reboot, or if it cannot be used.
    pub checkpoint: Option<Checkpoint>,
    /// Journal since the checkpoint.
    pub journal: Vec<JournalRecord>,
    /// Input log since the checkpoint.
    pub inputs: Vec<InputLogRecord>,
    /// Lines that are already in the output files, although the journal does not say so.
    pub written_lines: WrittenLines,
    /// Descriptions of files that could not be used, each with its cause.
    pub notes: Vec<String>,
    /// Error of the first write, if the directory cannot be written.
    pub write_error: Option<String>,
    /// Bytes of the checkpoint file.
    pub(crate) bytes: u64,
}

/// Reason why a checkpoint is not used.
enum CheckpointRejection {
    /// The checkpoint is of an earlier boot of this machine. This is normal.
    OtherBoot,
    /// The checkpoint is damaged, or of another format or machine.
    Unusable(String),
}

impl RecoveredState {
    /// Reads the files of a directory, for an agent in this boot of this machine.
    pub(crate) fn read(directory: &LockedDirectory, here: (&str, &MachineId), unix_seconds: u64) -> Self {
        let mut recovered = Self::default();
        let found = match directory.read(CHECKPOINT_FILE) {
            Ok(None) => return recovered,
            Ok(Some(bytes)) if bytes.is_empty() => {
                Err(CheckpointRejection::Unusable("it is empty".to_owned()))
            }
            Ok(Some(bytes)) => {
                recovered.bytes = bytes.len() as u64;
                parse_checkpoint(&record_file::parse(&bytes), here)
            }
            Err(error) => Err(CheckpointRejection::Unusable(format!("it cannot be read: {error}"))),
        };
        match found {
            Ok(checkpoint) => recovered.checkpoint = Some(checkpoint),
            Err(CheckpointRejection::OtherBoot) => {
                info!("the state is of an earlier boot of this machine; windows start empty");
                return recovered;
            }
            Err(CheckpointRejection::Unusable(cause)) => {
                recovered.bytes = 0;
                let aside = directory.set_aside(CHECKPOINT_FILE, CHECKPOINT_FILE, unix_seconds);
                recovered.note_unusable(directory, (CHECKPOINT_FILE, &cause), aside, "windows start empty");
                return recovered;
            }
        }
        recovered.read_journal(directory, unix_seconds);
        recovered.read_inputs(directory, unix_seconds);
        recovered
    }

    fn read_journal(&mut self, directory: &LockedDirectory, unix_seconds: u64) {
        let records = match record_file::read(directory, JOURNAL_FILE) {
            Ok(found) => self.usable_records(directory, JOURNAL_FILE, JOURNAL_FILE, found, unix_seconds),
            Err(error) => {
                self.set_aside_unreadable(directory, JOURNAL_FILE, JOURNAL_FILE, &error, unix_seconds)
            }
        };
        let files = records.iter().rev().find_map(|record| match record {
            JournalRecord::OutputsWritten(files) => Some(files.as_slice()),
            _ => None,
        });
        self.written_lines = WrittenLines::read(files.unwrap_or_default());
        self.journal = records;
    }

    fn read_inputs(&mut self, directory: &LockedDirectory, unix_seconds: u64) {
        const LABEL: &str = "history";
        let files = match InputLog::read(directory) {
            Ok(files) => files,
            Err(error) => {
                warn!(%error, "failed to list the state directory; rule inputs since the last state are not replayed");
                return;
            }
        };
        let mut records = Vec::new();
        for (name, found) in files {
            records.extend(match found {
                Ok(found) => self.usable_records(directory, &name, LABEL, found, unix_seconds),
                Err(error) => self.set_aside_unreadable(directory, &name, LABEL, &error, unix_seconds),
            });
        }
        let now = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.now);
        self.inputs = input_log::records_since(records, now);
    }

    /// Returns the records of a file up to its damage. A truncated last record is normal after a kill.
    fn usable_records<T: DeserializeOwned>(
        &mut self,
        directory: &LockedDirectory,
        name: &str,
        label: &str,
        found: FileRecords,
        unix_seconds: u64,
    ) -> Vec<T> {
        let records: Vec<T> = found.records.iter().map_while(|record| codec::decode(record).ok()).collect();
        let unknown = found.records.len() - records.len();
        let cause = match found.damage {
            Some(damage) if damage.kind == DamageKind::CutOff && unknown == 0 => {
                info!(
                    file = name,
                    bytes = damage.bytes_left,
                    "last record is truncated, as after a kill; ignored"
                );
                return records;
            }
            _ if unknown > 0 => Some(format!("record {} cannot be decoded", records.len() + 1)),
            damage => damage.map(|damage| damage.to_string()),
        };
        if let Some(cause) = cause {
            let bytes = directory.read(name).map(Option::unwrap_or_default);
            let aside = bytes.and_then(|bytes| directory.copy_aside(&bytes, label, unix_seconds));
            self.note_unusable(directory, (name, &cause), aside, "records after it are ignored");
        }
        records
    }

    fn set_aside_unreadable<T>(
        &mut self,
        directory: &LockedDirectory,
        name: &str,
        label: &str,
        error: &io::Error,
        unix_seconds: u64,
    ) -> Vec<T> {
        let aside = directory.set_aside(name, label, unix_seconds);
        let cause = format!("it cannot be read: {error}");
        self.note_unusable(directory, (name, &cause), aside, "the agent goes on without it");
        Vec::new()
    }

    /// Logs and notes a file that cannot be used, and the consequence.
    fn note_unusable(
        &mut self,
        directory: &LockedDirectory,
        (name, cause): (&str, &str),
        aside: io::Result<String>,
        consequence: &str,
    ) {
        let path = directory.path().join(name);
        let copy = match aside {
            Ok(aside) => format!("set aside as {aside}"),
            Err(error) => format!("it cannot be set aside: {error}"),
        };
        let note = format!("{} cannot be used: {cause}; {copy}; {consequence}", path.display());
        warn!("{note}");
        self.notes.push(note);
    }
}

/// Parses a checkpoint file, for this boot of this machine.
fn parse_checkpoint(
    found: &FileRecords,
    (boot, machine): (&str, &MachineId),
) -> Result<Checkpoint, CheckpointRejection> {
    let cause = |cause: String| CheckpointRejection::Unusable(cause);
    let damaged =
        || cause(found.damage.map_or_else(|| "it ends too early".to_owned(), |damage| damage.to_string()));
    let head = found.records.first().ok_or_else(damaged)?;
    let head: CheckpointHeader =
        codec::decode(head).map_err(|error| cause(format!("its head cannot be read: {error}")))?;
    if head.version != FORMAT_VERSION {
        let of = head.version;
        return Err(cause(format!("it has format {of}, and this agent reads format {FORMAT_VERSION}")));
    }
    let bytes = found.records.get(1).ok_or_else(damaged)?;
    if head.boot != boot {
        // Checkpoints of early versions have no machine id.
        let other = found.records.get(2).and_then(|record| codec::decode::<MachineId>(record).ok());
        return Err(match other {
            Some(MachineId(other)) if !other.is_empty() && !machine.0.is_empty() && other != machine.0 => {
                cause(format!("it belongs to another machine (machine id {other})"))
            }
            _ => CheckpointRejection::OtherBoot,
        });
    }
    if found.damage.is_some() {
        return Err(damaged());
    }
    codec::decode(bytes).map_err(|error| cause(format!("it cannot be decoded: {error}")))
}
