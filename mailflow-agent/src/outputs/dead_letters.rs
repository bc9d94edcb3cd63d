//! Dead letters: events that a receiver refuses permanently, in a file for the operator.
//!
//! The file holds JSON lines. A full file is renamed to `FILE.1` and replaces the previous one. `status` and
//! `doctor` report events in either file.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::eve::common::EveTimestamp;
use crate::metrics::ReceiverCounters;
use mailflow_engine::time::{Time, WallClockOffset};
use mailflow_kernel::clock;

/// Largest size of a file.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Dead letters of one sink.
pub(crate) struct DeadLetterFile {
    path: Option<PathBuf>,
    counters: ReceiverCounters,
    /// Stamps of the two files when they were last counted, and their events.
    counted_files: [(FileStamp, u64); 2],
    /// Events of this process that could not be written.
    unwritten_events: u64,
}

/// Inode and size of a file.
type FileStamp = (u64, u64);

/// Refused event.
pub(crate) struct DeadLetter<'a> {
    pub(crate) sink: &'a str,
    /// Receiver without secrets.
    pub(crate) receiver: &'a str,
    pub(crate) status: u16,
    pub(crate) reason: &'a str,
    pub(crate) key: &'a str,
    /// Event as it was posted.
    pub(crate) event: &'a str,
}

impl DeadLetterFile {
    /// Opens the dead letters in `path` and in its rotated file. Without a path the events are only counted.
    pub(crate) fn new(path: Option<PathBuf>, counters: ReceiverCounters) -> Self {
        // A sink of the same name before a reload may have left another value.
        counters.dead_letters.set(0);
        let mut dead_letters =
            Self { path, counters, counted_files: Default::default(), unwritten_events: 0 };
        dead_letters.recount();
        dead_letters
    }

    /// Returns true if there are dead letters, so that a recount is needed.
    pub(crate) fn has_any(&self) -> bool {
        self.counters.dead_letters.get() > 0
    }

    /// Counts the events of the files that have changed.
    pub(crate) fn recount(&mut self) {
        let Some(path) = &self.path else { return };
        for (path, (stamp, lines)) in [path.clone(), rotated(path)].iter().zip(&mut self.counted_files) {
            let current = fs::metadata(path).map_or((0, 0), |metadata| (metadata.ino(), metadata.size()));
            if current != *stamp {
                (*stamp, *lines) = (current, count_lines(path));
            }
        }
        let events: u64 =
            self.counted_files.iter().map(|(_, lines)| lines).sum::<u64>() + self.unwritten_events;
        self.counters.dead_letters.set(i64::try_from(events).unwrap_or(i64::MAX));
    }

    /// Appends an event.
    ///
    /// # Errors
    /// The file cannot be written. The event is counted nevertheless.
    pub(crate) fn add(&mut self, letter: &DeadLetter<'_>) -> io::Result<()> {
        self.counters.dead_lettered.inc();
        let Some(path) = self.path.clone() else {
            self.unwritten_events += 1;
            self.counters.dead_letters.inc();
            return Ok(());
        };
        let result = append(&path, &line(letter));
        if result.is_err() {
            self.unwritten_events += 1;
        }
        self.recount();
        result
    }
}

/// Returns the name of the rotated file.
fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Returns the number of lines of a file, 0 without a file.
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

/// Returns the number of events in a file of dead letters and in its rotated file.
pub fn count_events(path: &Path) -> u64 {
    count_lines(path) + count_lines(&rotated(path))
}

/// Formats a dead letter as a line.
fn line(letter: &DeadLetter<'_>) -> String {
    let now = EveTimestamp::of(Time::ZERO, WallClockOffset::from_unix_nanos(clock::unix_nanos())).rfc3339();
    let event: Value = serde_json::from_str(letter.event).unwrap_or_else(|_| letter.event.into());
    let line = json!({
        "time": now, "output": letter.sink, "receiver": letter.receiver, "status": letter.status,
        "reason": letter.reason, "idempotency_key": letter.key, "event": event,
    });
    format!("{line}\n")
}

/// Appends a line to the file. A full file is rotated first.
fn append(path: &Path, line: &str) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    }
    let open = || {
        // A symbolic link at this path would redirect the events.
        OpenOptions::new().create(true).append(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
    };
    let mut file = open()?;
    let length = file.metadata()?.len();
    if length > 0 && length + line.len() as u64 > MAX_FILE_BYTES {
        fs::rename(path, rotated(path))?;
        file = open()?;
    }
    // The line is written completely or not at all: a partial line is truncated.
    let length_before = file.metadata()?.len();
    let result = file.write_all(line.as_bytes());
    if result.is_err() {
        let _ = file.set_len(length_before);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::metrics::AgentMetrics;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("mailflow-dead-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn letter(event: &str) -> DeadLetter<'_> {
        DeadLetter { sink: "hook", receiver: "https://h:443", status: 404, reason: "no", key: "k", event }
    }

    #[test]
    fn events_are_private_lines_counted_until_the_file_is_emptied() {
        let folder = folder("lines");
        let path = folder.join("inner/hook.json");
        let agent = AgentMetrics::new("0", 0.0).unwrap();
        let mut dead_letters = DeadLetterFile::new(Some(path.clone()), agent.receiver_counters("hook"));
        assert!(!dead_letters.has_any());
        dead_letters.add(&letter("{\"a\":1}")).unwrap();
        dead_letters.add(&letter("no JSON")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["event"]["a"], &lines[0]["status"]), (&json!(1), &json!(404)));
        assert_eq!((&lines[1]["event"], &lines[1]["receiver"]), (&json!("no JSON"), &json!("https://h:443")));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
        // Another process counts them, and notices the empty file.
        let other = AgentMetrics::new("0", 0.0).unwrap();
        let mut again = DeadLetterFile::new(Some(path.clone()), other.receiver_counters("hook"));
        assert_eq!(other.receiver_counters("hook").dead_letters.get(), 2);
        fs::write(&path, "").unwrap();
        again.recount();
        assert!(!again.has_any());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn limits_the_size_of_files() {
        let folder = folder("bounded");
        let path = folder.join("hook.json");
        let agent = AgentMetrics::new("0", 0.0).unwrap();
        let mut dead_letters = DeadLetterFile::new(Some(path.clone()), agent.receiver_counters("hook"));
        let event = format!("\"{}\"", "x".repeat(1 << 20));
        for _ in 0..30 {
            dead_letters.add(&letter(&event)).unwrap();
        }
        for path in [path.clone(), rotated(&path)] {
            let size = fs::metadata(&path).unwrap().len();
            assert!(size > 1 << 20 && size <= MAX_FILE_BYTES, "{size}");
        }
        assert_eq!(agent.receiver_counters("hook").dead_letters.get() as u64, count_events(&path));
        assert_eq!(agent.receiver_counters("hook").dead_lettered.get(), 30);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn does_not_follow_a_link_and_counts_the_event() {
        let folder = folder("link");
        fs::create_dir_all(&folder).unwrap();
        let (path, victim) = (folder.join("hook.json"), folder.join("victim"));
        fs::write(&victim, "").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let agent = AgentMetrics::new("0", 0.0).unwrap();
        let mut dead_letters = DeadLetterFile::new(Some(path), agent.receiver_counters("hook"));
        dead_letters.add(&letter("{}")).unwrap_err();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "");
        assert!(dead_letters.has_any());
        fs::remove_dir_all(&folder).unwrap();
    }
}
