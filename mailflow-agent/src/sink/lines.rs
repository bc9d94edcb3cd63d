//! Lines to a file or standard output, written by a thread of their own: however slow or full the
//! disk, whoever hands over a line never waits.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, Thread},
    time::Duration,
};

use prometheus::{IntCounter, IntGauge};

use crate::config::Target;

/// Bytes after which a batch is written even if more lines wait.
const BATCH: usize = 64 * 1024;
/// Pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a sink could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened for appending.
    #[error("cannot open {} for appending: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Standard output cannot be used.
    #[error("cannot use standard output: {0}")]
    Stdout(io::Error),
    /// No thread could be started.
    #[error("cannot start a thread to write lines: {0}")]
    Thread(io::Error),
}

/// Lines that a sink had taken but not written when it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} lines were not written")]
pub struct Unwritten(pub u64);

/// What became of one sink's lines. Clones share their numbers.
#[derive(Clone, Debug)]
pub struct LineCounters {
    /// Lines written.
    pub written: IntCounter,
    /// Lines refused because the queue was full or its writer gone.
    pub dropped: IntCounter,
    /// Failed attempts to write; the lines wait and are tried again.
    pub errors: IntCounter,
    /// Lines taken and not yet written.
    pub waiting: IntGauge,
}

/// A stream of lines.
#[derive(Debug)]
pub struct LineSink {
    queue: Option<SyncSender<String>>,
    closing: Arc<AtomicBool>,
    /// Disconnected once the writer is done.
    done: Receiver<()>,
    writer: Thread,
    counters: LineCounters,
}

impl LineSink {
    /// Opens `target` and starts the thread that writes to it. At most `queue` lines wait (at least
    /// one); further ones are dropped and counted.
    ///
    /// # Errors
    /// The target cannot be opened, or no thread can be started.
    pub fn start(target: &Target, queue: usize, counters: LineCounters) -> Result<Self, OpenError> {
        let output = open(target)?;
        let (queue, lines) = sync_channel(queue.max(1));
        let (finished, done) = sync_channel(0);
        let closing = Arc::new(AtomicBool::new(false));
        let writer =
            Writer { output, pending: Vec::new(), counters: counters.clone(), closing: Arc::clone(&closing) };
        let handle = thread::Builder::new()
            .name("lines".into())
            .spawn(move || {
                writer.run(&lines);
                drop(finished);
            })
            .map_err(OpenError::Thread)?;
        Ok(Self { queue: Some(queue), closing, done, writer: handle.thread().clone(), counters })
    }

    /// Hands over one line, without its line end. Never waits: a line for which there is no room is
    /// dropped and counted.
    pub fn push(&self, line: String) {
        self.counters.waiting.inc();
        if self.queue.as_ref().is_none_or(|queue| queue.try_send(line).is_err()) {
            self.counters.waiting.dec();
            self.counters.dropped.inc();
        }
    }

    /// What became of the lines.
    pub fn counters(&self) -> &LineCounters {
        &self.counters
    }

    /// Writes what waits, for at most `grace`. What fails now is not tried again.
    ///
    /// # Errors
    /// How many lines were taken but not written.
    pub fn close(mut self, grace: Duration) -> Result<(), Unwritten> {
        self.hang_up();
        // Either the writer is done, or the grace is over; the gauge knows what is left.
        let _ = self.done.recv_timeout(grace);
        match self.counters.waiting.get() {
            ..=0 => Ok(()),
            left => Err(Unwritten(left.unsigned_abs())),
        }
    }

    fn hang_up(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.queue = None;
        self.writer.unpark();
    }
}

impl Drop for LineSink {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// Opens a target; apart from `start`, as rotating files needs it again.
fn open(target: &Target) -> Result<File, OpenError> {
    match target {
        // Not through `io::Stdout`: it has a buffer of its own, which would hide what was written.
        Target::Stdout => {
            let owned = io::stdout().as_fd().try_clone_to_owned().map_err(OpenError::Stdout)?;
            Ok(File::from(owned))
        }
        Target::File(path) => OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|source| OpenError::File { path: path.clone(), source }),
    }
}

/// The thread's side of a sink.
struct Writer<W> {
    output: W,
    /// Lines not yet written; begins within a line after a disk filled up there.
    pending: Vec<u8>,
    counters: LineCounters,
    closing: Arc<AtomicBool>,
}

impl<W: Write> Writer<W> {
    /// Writes until the queue is closed and empty, or closed and failing.
    fn run(mut self, lines: &Receiver<String>) {
        while let Ok(line) = lines.recv() {
            self.add(&line);
            while self.pending.len() < BATCH {
                let Ok(line) = lines.try_recv() else { break };
                self.add(&line);
            }
            if !self.flush() {
                return;
            }
        }
    }

    fn add(&mut self, line: &str) {
        self.pending.extend_from_slice(line.as_bytes());
        self.pending.push(b'\n');
    }

    /// Writes what is pending, however long that takes; `false` when it gave up because of closing.
    fn flush(&mut self) -> bool {
        let mut failing = false;
        while !self.pending.is_empty() {
            let error = match self.output.write(&self.pending) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(taken) => {
                    self.book(taken);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.counters.errors.inc();
            if !failing {
                failing = true;
                tracing::error!(%error, "a line sink cannot write; it goes on trying");
            }
            if self.closing.load(Ordering::Acquire) {
                return false;
            }
            thread::park_timeout(RETRY);
        }
        if failing {
            tracing::info!("the line sink writes again");
        }
        true
    }

    fn book(&mut self, taken: usize) {
        let lines = self.pending.drain(..taken).filter(|byte| *byte == b'\n').count();
        self.counters.written.inc_by(lines as u64);
        self.counters.waiting.sub(lines as i64);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::sink::metrics::Agent;

    fn counters() -> LineCounters {
        Agent::new("0", 0.0).unwrap().line_counters("test")
    }

    /// Takes five bytes at a time, is full for a while, and then goes on.
    struct FullForAWhile {
        file: Arc<Mutex<Vec<u8>>>,
        calls: u32,
    }

    impl Write for FullForAWhile {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            match self.calls {
                2 => Err(ErrorKind::Interrupted.into()),
                3 => Err(ErrorKind::StorageFull.into()),
                _ => {
                    let taken = bytes.len().min(5);
                    self.file.lock().unwrap().extend_from_slice(&bytes[..taken]);
                    Ok(taken)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_was_full_gets_every_line_whole_and_once() {
        let (file, counters) = (Arc::default(), counters());
        let writer = Writer {
            output: FullForAWhile { file: Arc::clone(&file), calls: 0 },
            pending: Vec::new(),
            counters: counters.clone(),
            closing: Arc::default(),
        };
        let (queue, lines) = sync_channel(10);
        for line in ["first line", "second", "third"] {
            counters.waiting.inc();
            queue.send(line.to_owned()).unwrap();
        }
        drop(queue);
        writer.run(&lines);
        assert_eq!(String::from_utf8(file.lock().unwrap().clone()).unwrap(), "first line\nsecond\nthird\n");
        assert_eq!((counters.written.get(), counters.errors.get(), counters.waiting.get()), (3, 1, 0));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let target = Target::File("/nonexistent/flows.json".into());
        let error = LineSink::start(&target, 1, counters()).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot open /nonexistent/flows.json for appending: "),
            "{error}"
        );
    }

    #[test]
    fn a_full_disk_costs_lines_but_never_time() {
        let sink = LineSink::start(&Target::File("/dev/full".into()), 4, counters()).unwrap();
        let counters = sink.counters().clone();
        for number in 0..20_000 {
            sink.push(format!("{number:0100}"));
        }
        let Unwritten(left) = sink.close(Duration::from_secs(10)).unwrap_err();
        assert_eq!(counters.written.get(), 0);
        assert_eq!(left + counters.dropped.get(), 20_000, "each line is accounted for");
        assert!(counters.errors.get() > 0 && counters.dropped.get() > 0);
    }
}
