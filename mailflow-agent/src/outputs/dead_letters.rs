//! Events that a receiver refuses for good, in a file for the operator.
//!
//! The file holds JSON lines. When it is full it becomes `FILE.1`, in place of the one before. While either holds an
//! event, `status` and `doctor` say so.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::eve::common::Moment;
use crate::metrics::ReceiverCounters;
use mailflow_engine::time::{Time, WallClockOffset};
use mailflow_kernel::clock;

/// Largest file.
const MAX_BYTES: u64 = 8 << 20;

/// The dead letters of one sink.
pub(crate) struct DeadLetters {
    path: Option<PathBuf>,
    counters: ReceiverCounters,
    /// Sizes and numbers of the files when they were last counted.
    counted: [(FileStamp, u64); 2],
    /// Events of this process that could not be written.
    unwritten: u64,
}

/// A file's inode and size.
type FileStamp = (u64, u64);

/// An event that was refused.
pub(crate) struct Letter<'a> {
    pub(crate) sink: &'a str,
    /// The receiver, as it may be shown.
    pub(crate) receiver: &'a str,
    pub(crate) status: u16,
    pub(crate) reason: &'a str,
    pub(crate) key: &'a str,
    /// The event as it was posted.
    pub(crate) event: &'a str,
}

impl DeadLetters {
    /// Those in `path` and beside it; without a path they are counted only.
    pub(crate) fn new(path: Option<PathBuf>, counters: ReceiverCounters) -> Self {
        // A namesake before a reload may have left another number.
        counters.dead_letters.set(0);
        let mut letters = Self { path, counters, counted: Default::default(), unwritten: 0 };
        letters.count();
        letters
    }

    /// Returns true if there are any, so that it pays to count them again.
    pub(crate) fn any(&self) -> bool {
        self.counters.dead_letters.get() > 0
    }

    /// Counts the events in the files, where these have changed.
    pub(crate) fn count(&mut self) {
        let Some(path) = &self.path else { return };
        for (path, (stamp, lines)) in [path.clone(), rotated(path)].iter().zip(&mut self.counted) {
            let now = fs::metadata(path).map_or((0, 0), |about| (about.ino(), about.size()));
            if now != *stamp {
                (*stamp, *lines) = (now, count_lines(path));
            }
        }
        let held: u64 = self.counted.iter().map(|(_, lines)| lines).sum::<u64>() + self.unwritten;
        self.counters.dead_letters.set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    /// Adds an event.
    ///
    /// # Errors
    /// The file cannot be written; the event is counted all the same.
    pub(crate) fn add(&mut self, letter: &Letter<'_>) -> io::Result<()> {
        self.counters.dead_lettered.inc();
        let Some(path) = self.path.clone() else {
            self.unwritten += 1;
            self.counters.dead_letters.inc();
            return Ok(());
        };
        let result = append(&path, &line(letter));
        if result.is_err() {
            self.unwritten += 1;
        }
        self.count();
        result
    }
}

/// The file that a full one becomes.
fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Lines in a file; none where there is no file.
pub fn count_lines(path: &Path) -> u64 {
    let Ok(mut file) =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
    else {
        return 0;
    };
    let (mut lines, mut buffer, mut last) = (0, vec![0; 64 << 10], b'\n');
    while let Ok(length) = file.read(&mut buffer) {
        let Some(read) = buffer.get(..length).filter(|read| !read.is_empty()) else { break };
        lines += read.iter().filter(|byte| **byte == b'\n').count() as u64;
        last = read.last().copied().unwrap_or(last);
    }
    lines + u64::from(last != b'\n')
}

/// Events in a file of dead letters and in the one before it.
pub fn held(path: &Path) -> u64 {
    count_lines(path) + count_lines(&rotated(path))
}

fn line(letter: &Letter<'_>) -> String {
    let now = Moment::of(Time::ZERO, WallClockOffset::from_unix_nanos(clock::unix_nanos())).rfc3339();
    let event: Value = serde_json::from_str(letter.event).unwrap_or_else(|_| letter.event.into());
    let line = json!({
        "time": now, "sink": letter.sink, "receiver": letter.receiver, "status": letter.status,
        "reason": letter.reason, "idempotency_key": letter.key, "event": event,
    });
    format!("{line}\n")
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    }
    let open = || {
        // A link in its place would lead the events elsewhere.
        OpenOptions::new().create(true).append(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
    };
    let mut file = open()?;
    let held = file.metadata()?.len();
    if held > 0 && held + line.len() as u64 > MAX_BYTES {
        fs::rename(path, rotated(path))?;
        file = open()?;
    }
    // As a whole or not at all: what is cut is taken off again.
    let before = file.metadata()?.len();
    let result = file.write_all(line.as_bytes());
    if result.is_err() {
        let _ = file.set_len(before);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::metrics::Agent;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("mailflow-dead-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn letter(event: &str) -> Letter<'_> {
        Letter { sink: "hook", receiver: "https://h:443", status: 404, reason: "no", key: "k", event }
    }

    #[test]
    fn events_are_lines_that_others_cannot_read_and_are_counted_until_the_file_is_gone() {
        let folder = folder("lines");
        let path = folder.join("inner/hook.json");
        let agent = Agent::new("0", 0.0).unwrap();
        let mut letters = DeadLetters::new(Some(path.clone()), agent.receiver_counters("hook"));
        assert!(!letters.any());
        letters.add(&letter("{\"a\":1}")).unwrap();
        letters.add(&letter("no JSON")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["event"]["a"], &lines[0]["status"]), (&json!(1), &json!(404)));
        assert_eq!((&lines[1]["event"], &lines[1]["receiver"]), (&json!("no JSON"), &json!("https://h:443")));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
        // Another process finds them, and sees when they are gone.
        let other = Agent::new("0", 0.0).unwrap();
        let mut again = DeadLetters::new(Some(path.clone()), other.receiver_counters("hook"));
        assert_eq!(other.receiver_counters("hook").dead_letters.get(), 2);
        fs::write(&path, "").unwrap();
        again.count();
        assert!(!again.any());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_files_are_bounded() {
        let folder = folder("bounded");
        let path = folder.join("hook.json");
        let agent = Agent::new("0", 0.0).unwrap();
        let mut letters = DeadLetters::new(Some(path.clone()), agent.receiver_counters("hook"));
        let event = format!("\"{}\"", "x".repeat(1 << 20));
        for _ in 0..30 {
            letters.add(&letter(&event)).unwrap();
        }
        for path in [path.clone(), rotated(&path)] {
            let size = fs::metadata(&path).unwrap().len();
            assert!(size > 1 << 20 && size <= MAX_BYTES, "{size}");
        }
        assert_eq!(agent.receiver_counters("hook").dead_letters.get() as u64, held(&path));
        assert_eq!(agent.receiver_counters("hook").dead_lettered.get(), 30);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_link_is_not_followed_and_the_event_counts_all_the_same() {
        let folder = folder("link");
        fs::create_dir_all(&folder).unwrap();
        let (path, victim) = (folder.join("hook.json"), folder.join("victim"));
        fs::write(&victim, "").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let agent = Agent::new("0", 0.0).unwrap();
        let mut letters = DeadLetters::new(Some(path), agent.receiver_counters("hook"));
        letters.add(&letter("{}")).unwrap_err();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "");
        assert!(letters.any());
        fs::remove_dir_all(&folder).unwrap();
    }
}
