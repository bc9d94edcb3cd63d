//! Input log: the inputs of the rules and the delivered alerts since the last checkpoint, in the files
//! `history-*`.

use std::io;

use serde::{Deserialize, Serialize};

use super::record_file::{self, Appender, FileRecords};
use crate::recovery::directory::LockedDirectory;
use mailflow_engine::{
    event::{Alert, AlertState},
    flow::{Flow, RecordReason},
    time::Time,
};

const FILE_PREFIX: &str = "history-";

/// Record of the input log. The order of the variants is the format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InputLogRecord {
    /// Flow record, or open flow, that the rules evaluated.
    Input(LoggedInput),
    /// Alert event that all outputs have delivered.
    AlertDelivered(AlertEventId),
    /// Mark of a checkpoint of this time. It includes all records before the mark.
    Checkpoint(u64),
    /// Offset of the monotonic clock from the wall clock, for the inputs that follow.
    ClockOffset(i128),
    /// Time up to which the engine was advanced.
    Tick(Time),
}

/// Flow record that the rules evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedInput {
    /// Time of the evaluation.
    pub at: Time,
    /// Flow.
    pub flow: Flow,
    /// Reason of the record.
    pub reason: RecordReason,
    /// True for an open flow without a record, which was evaluated because of its gain.
    pub open: bool,
}

/// Identity of an alert event, to recognise delivered ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AlertEventId {
    fingerprint: String,
    starts_at: u64,
    at: u64,
    resolved: bool,
}

impl AlertEventId {
    /// Returns the identity of an alert event.
    pub fn of(alert: &Alert) -> Self {
        Self {
            fingerprint: alert.fingerprint.clone(),
            starts_at: alert.starts_at.as_nanos(),
            at: alert.time.as_nanos(),
            resolved: alert.state == AlertState::Resolved,
        }
    }
}

/// Returns the records after the checkpoint of this time.
pub(crate) fn records_since(mut records: Vec<InputLogRecord>, checkpoint_time: u64) -> Vec<InputLogRecord> {
    // A mark may belong to a checkpoint that was not written because the process was killed.
    let mark = records
        .iter()
        .rposition(|record| matches!(record, InputLogRecord::Checkpoint(now) if *now <= checkpoint_time));
    records.drain(..mark.map_or(0, |mark| mark + 1));
    records
}

/// Files of the input log.
#[derive(Debug, Default)]
pub(crate) struct InputLog {
    /// File that is being written, if any.
    current: Option<Appender>,
    next: u64,
}

impl InputLog {
    /// Reads the log, in order: the name of each file, and its records.
    pub(crate) fn read(directory: &LockedDirectory) -> io::Result<Vec<(String, io::Result<FileRecords>)>> {
        let files = numbered_files(directory)?.into_iter();
        Ok(files
            .map(|(_, name)| {
                let found = record_file::read(directory, &name);
                (name, found)
            })
            .collect())
    }

    /// Opens the log for appending, after the existing files.
    pub(crate) fn open(directory: &LockedDirectory) -> io::Result<Self> {
        let next = numbered_files(directory)?.last().map_or(0, |(number, _)| number + 1);
        Ok(Self { current: None, next })
    }

    /// Returns the bytes written since the last [`InputLog::clear`].
    pub(crate) fn bytes(&self) -> u64 {
        self.current.as_ref().map_or(0, Appender::bytes)
    }

    /// Appends records. After an error none of them is in the file.
    pub(crate) fn write(
        &mut self,
        directory: &LockedDirectory,
        records: impl IntoIterator<Item = InputLogRecord>,
    ) -> io::Result<()> {
        let mut records = records.into_iter().peekable();
        if records.peek().is_none() {
            return Ok(());
        }
        let current = match &mut self.current {
            Some(current) => current,
            none => {
                let file = Appender::open(directory, &format!("{FILE_PREFIX}{:012}", self.next))?;
                self.next += 1;
                none.insert(file)
            }
        };
        let before = current.bytes();
        let written = records.try_for_each(|record| {
            current.add(&record).map_err(io::Error::other)?;
            if current.is_buffer_full() { current.write() } else { Ok(()) }
        });
        written.and_then(|()| current.write()).inspect_err(|_| {
            // If this fails too, the next write truncates first.
            let _ = current.truncate(before);
        })
    }

    /// Removes all files. The next write begins a new one.
    pub(crate) fn clear(&mut self, directory: &LockedDirectory) -> io::Result<()> {
        self.current = None;
        numbered_files(directory)?.into_iter().try_for_each(|(_, name)| directory.remove(&name))
    }
}

/// Returns the numbers and names of the files, oldest first.
fn numbered_files(directory: &LockedDirectory) -> io::Result<Vec<(u64, String)>> {
    let numbered = |name: String| Some((name.strip_prefix(FILE_PREFIX)?.parse().ok()?, name));
    let mut files: Vec<(u64, String)> =
        directory.names(FILE_PREFIX)?.into_iter().filter_map(numbered).collect();
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::journal::record::tests::some_flow;
    use mailflow_engine::checkpoint::codec;

    fn logged_input(seconds: u64) -> InputLogRecord {
        let at = Time::from_nanos(seconds * 1_000_000_000);
        InputLogRecord::Input(LoggedInput {
            at,
            flow: some_flow(seconds as u16),
            reason: RecordReason::Closed,
            open: false,
        })
    }

    #[test]
    fn it_is_appended_to_and_cleared_with_a_checkpoint() {
        let path = std::env::temp_dir().join(format!("mailflow-history-{}", std::process::id()));
        let directory = LockedDirectory::open(&path).unwrap();
        let read = || -> Vec<InputLogRecord> {
            let files = InputLog::read(&directory).unwrap().into_iter();
            let records = files.flat_map(|(_, found)| found.unwrap().records);
            records.map(|record| codec::decode(&record).unwrap()).collect()
        };
        let delivered = InputLogRecord::AlertDelivered(AlertEventId {
            fingerprint: "f".to_owned(),
            starts_at: 1,
            at: 2,
            resolved: true,
        });
        let mut log = InputLog::open(&directory).unwrap();
        log.write(&directory, [logged_input(1), delivered.clone()]).unwrap();
        log.write(&directory, [InputLogRecord::Checkpoint(5), logged_input(2)]).unwrap();
        let mut reopened = InputLog::open(&directory).unwrap();
        let [epoch, passed] = [InputLogRecord::ClockOffset(-3), InputLogRecord::Tick(Time::from_nanos(9))];
        reopened.write(&directory, [epoch.clone(), logged_input(3), passed.clone()]).unwrap();
        let all = read();
        let last = [logged_input(2), epoch, logged_input(3), passed];
        assert_eq!(all[..3], [logged_input(1), delivered, InputLogRecord::Checkpoint(5)]);
        assert_eq!(all[3..], last);
        assert_eq!(records_since(all.clone(), 5), last);
        assert_eq!(records_since(all.clone(), 4), all, "that state was never written");
        reopened.clear(&directory).unwrap();
        assert_eq!(read(), []);
        reopened.write(&directory, [logged_input(4)]).unwrap();
        assert_eq!(read(), [logged_input(4)]);
        // More records than one write buffer holds.
        let many: Vec<InputLogRecord> = (0..10_000).map(logged_input).collect();
        reopened.write(&directory, many.iter().cloned()).unwrap();
        assert_eq!(read()[1..], many);
        std::fs::remove_dir_all(path).unwrap();
    }
}
