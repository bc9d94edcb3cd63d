//! The records that the rules have judged and the alerts that were told, since the last state.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    entry::Judged,
    frames::{self, Appender},
};
use crate::engine::{
    event::{Alert, AlertState},
    time::Time,
};

const PREFIX: &str = "history-";

/// Something that was.
#[derive(Clone, Debug, PartialEq)]
pub enum Past {
    /// The rules judged a record.
    Judged(Judged),
    /// An alert was told.
    Told(Told),
    /// A state of this moment has all that was before.
    Kept(u64),
    /// Where the clock's beginning lies on the wall clock, by which the rules judge what follows.
    Epoch(i128),
    /// Time passed until then: what was due is done.
    Passed(Time),
}

/// An alert event, as far as it takes to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Told {
    fingerprint: String,
    starts_at: u64,
    at: u64,
    resolved: bool,
}

impl Told {
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
pub(super) fn since(mut past: Vec<Past>, state: u64) -> Vec<Past> {
    // A state that was about to be written when the agent died is not there.
    let kept = past.iter().rposition(|past| matches!(past, Past::Kept(now) if *now <= state));
    past.drain(..kept.map_or(0, |kept| kept + 1));
    past
}

/// The files.
#[derive(Debug)]
pub(super) struct History {
    directory: PathBuf,
    /// The one that is written, if there is one.
    current: Option<Appender>,
    next: u64,
}

impl History {
    /// All of it, in its order.
    pub(super) fn read(directory: &Path) -> io::Result<Vec<Past>> {
        let mut past = Vec::new();
        for (_, path) in files(directory)? {
            past.extend(frames::read(&path)?.iter().filter_map(|frame| Past::read(frame)));
        }
        Ok(past)
    }

    /// Removes all of it.
    pub(super) fn clear(directory: &Path) -> io::Result<()> {
        files(directory)?.into_iter().try_for_each(|(_, path)| fs::remove_file(path))
    }

    /// Goes on after what is there.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let next = files(directory)?.last().map_or(0, |(number, _)| number + 1);
        Ok(Self { directory: directory.to_owned(), current: None, next })
    }

    /// Appends. After an error nothing of it is there.
    pub(super) fn write(&mut self, past: impl IntoIterator<Item = Past>) -> io::Result<()> {
        let mut past = past.into_iter().peekable();
        if past.peek().is_none() {
            return Ok(());
        }
        let current = match &mut self.current {
            Some(current) => current,
            none => {
                let path = self.directory.join(format!("{PREFIX}{:012}", self.next));
                self.next += 1;
                none.insert(Appender::open(&path)?)
            }
        };
        let before = current.bytes();
        let written = past.try_for_each(|past| {
            past.add_to(current).map_err(io::Error::other)?;
            if current.is_full() { current.write() } else { Ok(()) }
        });
        written.and_then(|()| current.write()).or_else(|error| {
            current.cut(before)?;
            Err(error)
        })
    }

    /// Removes all of it, and begins anew.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        self.current = None;
        Self::clear(&self.directory)
    }
}

impl Past {
    fn add_to(&self, file: &mut Appender) -> postcard::Result<()> {
        // The first byte tells them apart.
        let frame = match self {
            Self::Judged(judged) => file.add(&(0u8, judged.line())),
            Self::Told(told) => file.add(&(1u8, told)),
            Self::Kept(now) => file.add(&(2u8, now)),
            Self::Epoch(epoch) => file.add(&(3u8, epoch)),
            Self::Passed(now) => file.add(&(4u8, now.as_nanos())),
        };
        frame.map(drop)
    }

    fn read(frame: &[u8]) -> Option<Self> {
        match frame.split_first()? {
            (0, bytes) => Judged::read(bytes).map(Self::Judged),
            (1, bytes) => postcard::from_bytes(bytes).ok().map(Self::Told),
            (2, bytes) => postcard::from_bytes(bytes).ok().map(Self::Kept),
            (3, bytes) => postcard::from_bytes(bytes).ok().map(Self::Epoch),
            (4, bytes) => postcard::from_bytes(bytes).ok().map(|now| Self::Passed(Time::from_nanos(now))),
            _ => None,
        }
    }
}

/// The files that are there, oldest first.
fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|number| number.parse().ok());
        files.extend(number.map(|number| (number, entry.path())));
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{super::entry::tests::some_flow, *};
    use crate::engine::flow::RecordReason;

    fn judged(seconds: u64) -> Past {
        let at = Time::from_nanos(seconds * 1_000_000_000);
        Past::Judged(Judged {
            at,
            flow: some_flow(seconds as u16),
            reason: RecordReason::Closed,
            open: false,
        })
    }

    #[test]
    fn it_goes_on_and_is_forgotten_with_a_state() {
        let directory = std::env::temp_dir().join(format!("mailflow-history-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let told = Past::Told(Told { fingerprint: "f".to_owned(), starts_at: 1, at: 2, resolved: true });
        let mut history = History::open(&directory).unwrap();
        history.write([judged(1), told.clone()]).unwrap();
        history.write([Past::Kept(5), judged(2)]).unwrap();
        let mut again = History::open(&directory).unwrap();
        let [epoch, passed] = [Past::Epoch(-3), Past::Passed(Time::from_nanos(9))];
        again.write([epoch.clone(), judged(3), passed.clone()]).unwrap();
        let all = History::read(&directory).unwrap();
        let last = [judged(2), epoch, judged(3), passed];
        assert_eq!(all[..3], [judged(1), told, Past::Kept(5)]);
        assert_eq!(all[3..], last);
        assert_eq!(since(all.clone(), 5), last);
        assert_eq!(since(all.clone(), 4), all, "that state was never written");
        again.forget().unwrap();
        assert_eq!(History::read(&directory).unwrap(), []);
        again.write([judged(4)]).unwrap();
        assert_eq!(History::read(&directory).unwrap(), [judged(4)]);
        // More than is written at once.
        let many: Vec<Past> = (0..10_000).map(judged).collect();
        again.write(many.iter().cloned()).unwrap();
        assert_eq!(History::read(&directory).unwrap()[1..], many);
        History::clear(&directory).unwrap();
        fs::remove_dir(directory).unwrap();
    }
}
