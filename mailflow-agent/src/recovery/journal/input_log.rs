//! The records that the rules have judged and the alerts that were told, since the last state.

use std::io;

use serde::{Deserialize, Serialize};

use super::{
    record::LoggedInput,
    record_file::{self, Appender, FileRecords},
};
use crate::recovery::directory::LockedDirectory;
use mailflow_engine::{
    event::{Alert, AlertState},
    time::Time,
};

const FILE_PREFIX: &str = "history-";

/// Something that was.
#[derive(Clone, Debug, PartialEq)]
pub enum InputLogRecord {
    /// The rules judged a record.
    Input(LoggedInput),
    /// An alert was told.
    AlertDelivered(AlertEventId),
    /// A state of this moment has all that was before.
    Checkpoint(u64),
    /// Where the clock's beginning lies on the wall clock, by which the rules judge what follows.
    ClockOffset(i128),
    /// Time passed until then: what was due is done.
    Tick(Time),
}

/// An alert event, as far as it takes to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AlertEventId {
    fingerprint: String,
    starts_at: u64,
    at: u64,
    resolved: bool,
}

impl AlertEventId {
    /// An alert event.
    pub fn of(alert: &Alert) -> Self {
        Self {
            fingerprint: alert.fingerprint.clone(),
            starts_at: alert.starts_at.as_nanos(),
            at: alert.time.as_nanos(),
            resolved: alert.state == AlertState::Resolved,
        }
    }
}

/// What was after the state of this moment.
pub(crate) fn records_since(mut records: Vec<InputLogRecord>, state: u64) -> Vec<InputLogRecord> {
    // A state that was about to be written when the agent died is not there.
    let checkpoint = records
        .iter()
        .rposition(|records| matches!(records, InputLogRecord::Checkpoint(now) if *now <= state));
    records.drain(..checkpoint.map_or(0, |checkpoint| checkpoint + 1));
    records
}

/// The files.
#[derive(Debug, Default)]
pub(crate) struct InputLog {
    /// The one that is written, if there is one.
    current: Option<Appender>,
    next: u64,
}

impl InputLog {
    /// All of it, in its order: each file's name, and its frames.
    pub(crate) fn read(directory: &LockedDirectory) -> io::Result<Vec<(String, io::Result<FileRecords>)>> {
        let files = numbered_files(directory)?.into_iter();
        Ok(files
            .map(|(_, name)| {
                let found = record_file::read(directory, &name);
                (name, found)
            })
            .collect())
    }

    /// Goes on after what is there.
    pub(crate) fn open(directory: &LockedDirectory) -> io::Result<Self> {
        let next = numbered_files(directory)?.last().map_or(0, |(number, _)| number + 1);
        Ok(Self { current: None, next })
    }

    /// Bytes that were written since it was forgotten last.
    pub(crate) fn bytes(&self) -> u64 {
        self.current.as_ref().map_or(0, Appender::bytes)
    }

    /// Appends. After an error nothing of it is there.
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
        let written = records.try_for_each(|records| {
            records.add_to(current).map_err(io::Error::other)?;
            if current.is_buffer_full() { current.write() } else { Ok(()) }
        });
        written.and_then(|()| current.write()).inspect_err(|_| {
            // Where that fails too, the next write begins with it.
            let _ = current.truncate(before);
        })
    }

    /// Removes all of it, and begins anew.
    pub(crate) fn clear(&mut self, directory: &LockedDirectory) -> io::Result<()> {
        self.current = None;
        numbered_files(directory)?.into_iter().try_for_each(|(_, name)| directory.remove(&name))
    }
}

impl InputLogRecord {
    fn add_to(&self, file: &mut Appender) -> postcard::Result<()> {
        // The first byte tells them apart.
        let frame = match self {
            Self::Input(logged_input) => file.add(&(0u8, logged_input.to_repr())),
            Self::AlertDelivered(delivered) => file.add(&(1u8, delivered)),
            Self::Checkpoint(now) => file.add(&(2u8, now)),
            Self::ClockOffset(epoch) => file.add(&(3u8, epoch)),
            Self::Tick(now) => file.add(&(4u8, now.as_nanos())),
        };
        frame.map(drop)
    }

    /// From the bytes of a frame; `None` where they are none of these.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        match frame.split_first()? {
            (0, bytes) => LoggedInput::read(bytes).map(Self::Input),
            (1, bytes) => postcard::from_bytes(bytes).ok().map(Self::AlertDelivered),
            (2, bytes) => postcard::from_bytes(bytes).ok().map(Self::Checkpoint),
            (3, bytes) => postcard::from_bytes(bytes).ok().map(Self::ClockOffset),
            (4, bytes) => postcard::from_bytes(bytes).ok().map(|now| Self::Tick(Time::from_nanos(now))),
            _ => None,
        }
    }
}

/// The files that are there, oldest first: their numbers and names.
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
    use mailflow_engine::flow::RecordReason;

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
    fn it_goes_on_and_is_forgotten_with_a_state() {
        let path = std::env::temp_dir().join(format!("mailflow-history-{}", std::process::id()));
        let directory = LockedDirectory::open(&path).unwrap();
        let read = || -> Vec<InputLogRecord> {
            let files = InputLog::read(&directory).unwrap().into_iter();
            let records = files.flat_map(|(_, found)| found.unwrap().records);
            records.map(|frame| InputLogRecord::read(&frame).unwrap()).collect()
        };
        let delivered = InputLogRecord::AlertDelivered(AlertEventId {
            fingerprint: "f".to_owned(),
            starts_at: 1,
            at: 2,
            resolved: true,
        });
        let mut history = InputLog::open(&directory).unwrap();
        history.write(&directory, [logged_input(1), delivered.clone()]).unwrap();
        history.write(&directory, [InputLogRecord::Checkpoint(5), logged_input(2)]).unwrap();
        let mut again = InputLog::open(&directory).unwrap();
        let [epoch, passed] = [InputLogRecord::ClockOffset(-3), InputLogRecord::Tick(Time::from_nanos(9))];
        again.write(&directory, [epoch.clone(), logged_input(3), passed.clone()]).unwrap();
        let all = read();
        let last = [logged_input(2), epoch, logged_input(3), passed];
        assert_eq!(all[..3], [logged_input(1), delivered, InputLogRecord::Checkpoint(5)]);
        assert_eq!(all[3..], last);
        assert_eq!(records_since(all.clone(), 5), last);
        assert_eq!(records_since(all.clone(), 4), all, "that state was never written");
        again.clear(&directory).unwrap();
        assert_eq!(read(), []);
        again.write(&directory, [logged_input(4)]).unwrap();
        assert_eq!(read(), [logged_input(4)]);
        // More than is written at once.
        let many: Vec<InputLogRecord> = (0..10_000).map(logged_input).collect();
        again.write(&directory, many.iter().cloned()).unwrap();
        assert_eq!(read()[1..], many);
        std::fs::remove_dir_all(path).unwrap();
    }
}
