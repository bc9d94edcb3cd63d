//! The records that the rules have judged and the alerts that were told, since the last state.

use std::io;

use serde::{Deserialize, Serialize};

use super::{
    file::{self, Appender, Found},
    record::Judged,
};
use crate::recovery::directory::Directory;
use mailflow_engine::{
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
pub(crate) fn since(mut past: Vec<Past>, state: u64) -> Vec<Past> {
    // A state that was about to be written when the agent died is not there.
    let kept = past.iter().rposition(|past| matches!(past, Past::Kept(now) if *now <= state));
    past.drain(..kept.map_or(0, |kept| kept + 1));
    past
}

/// The files.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The one that is written, if there is one.
    current: Option<Appender>,
    next: u64,
}

impl History {
    /// All of it, in its order: each file's name, and its frames.
    pub(crate) fn read(directory: &Directory) -> io::Result<Vec<(String, io::Result<Found>)>> {
        let files = files(directory)?.into_iter();
        Ok(files
            .map(|(_, name)| {
                let found = file::read(directory, &name);
                (name, found)
            })
            .collect())
    }

    /// Goes on after what is there.
    pub(crate) fn open(directory: &Directory) -> io::Result<Self> {
        let next = files(directory)?.last().map_or(0, |(number, _)| number + 1);
        Ok(Self { current: None, next })
    }

    /// Bytes that were written since it was forgotten last.
    pub(crate) fn bytes(&self) -> u64 {
        self.current.as_ref().map_or(0, Appender::bytes)
    }

    /// Appends. After an error nothing of it is there.
    pub(crate) fn write(
        &mut self,
        directory: &Directory,
        past: impl IntoIterator<Item = Past>,
    ) -> io::Result<()> {
        let mut past = past.into_iter().peekable();
        if past.peek().is_none() {
            return Ok(());
        }
        let current = match &mut self.current {
            Some(current) => current,
            none => {
                let file = Appender::open(directory, &format!("{PREFIX}{:012}", self.next))?;
                self.next += 1;
                none.insert(file)
            }
        };
        let before = current.bytes();
        let written = past.try_for_each(|past| {
            past.add_to(current).map_err(io::Error::other)?;
            if current.is_full() { current.write() } else { Ok(()) }
        });
        written.and_then(|()| current.write()).inspect_err(|_| {
            // Where that fails too, the next write begins with it.
            let _ = current.cut(before);
        })
    }

    /// Removes all of it, and begins anew.
    pub(crate) fn forget(&mut self, directory: &Directory) -> io::Result<()> {
        self.current = None;
        files(directory)?.into_iter().try_for_each(|(_, name)| directory.remove(&name))
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

    /// From the bytes of a frame; `None` where they are none of these.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
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

/// The files that are there, oldest first: their numbers and names.
fn files(directory: &Directory) -> io::Result<Vec<(u64, String)>> {
    let numbered = |name: String| Some((name.strip_prefix(PREFIX)?.parse().ok()?, name));
    let mut files: Vec<(u64, String)> = directory.names(PREFIX)?.into_iter().filter_map(numbered).collect();
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::journal::record::tests::some_flow;
    use mailflow_engine::flow::RecordReason;

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
        let path = std::env::temp_dir().join(format!("mailflow-history-{}", std::process::id()));
        let directory = Directory::open(&path).unwrap();
        let read = || -> Vec<Past> {
            let files = History::read(&directory).unwrap().into_iter();
            let frames = files.flat_map(|(_, found)| found.unwrap().frames);
            frames.map(|frame| Past::read(&frame).unwrap()).collect()
        };
        let told = Past::Told(Told { fingerprint: "f".to_owned(), starts_at: 1, at: 2, resolved: true });
        let mut history = History::open(&directory).unwrap();
        history.write(&directory, [judged(1), told.clone()]).unwrap();
        history.write(&directory, [Past::Kept(5), judged(2)]).unwrap();
        let mut again = History::open(&directory).unwrap();
        let [epoch, passed] = [Past::Epoch(-3), Past::Passed(Time::from_nanos(9))];
        again.write(&directory, [epoch.clone(), judged(3), passed.clone()]).unwrap();
        let all = read();
        let last = [judged(2), epoch, judged(3), passed];
        assert_eq!(all[..3], [judged(1), told, Past::Kept(5)]);
        assert_eq!(all[3..], last);
        assert_eq!(since(all.clone(), 5), last);
        assert_eq!(since(all.clone(), 4), all, "that state was never written");
        again.forget(&directory).unwrap();
        assert_eq!(read(), []);
        again.write(&directory, [judged(4)]).unwrap();
        assert_eq!(read(), [judged(4)]);
        // More than is written at once.
        let many: Vec<Past> = (0..10_000).map(judged).collect();
        again.write(&directory, many.iter().cloned()).unwrap();
        assert_eq!(read()[1..], many);
        std::fs::remove_dir_all(path).unwrap();
    }
}
