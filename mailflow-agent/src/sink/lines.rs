//! Lines to a file or standard output. A file may be rotated, by renaming it or by copying and
//! truncating it, and a disk that is full is tried again: no line is cut in two or written twice.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
    time::Duration,
};

use super::worker::{Counters, NoThread, Sink, Taken, Transport};
use crate::{config::Target, terminal};

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
    #[error(transparent)]
    Thread(#[from] NoThread),
}

/// Opens `target` and starts a sink that writes each item as the line that `render` makes of it.
///
/// # Errors
/// The target cannot be opened, or no thread can be started.
pub fn start<T, R>(
    name: &str,
    target: &Target,
    queue: usize,
    counters: Counters,
    render: R,
) -> Result<Sink<T>, OpenError>
where
    T: Send + 'static,
    R: Fn(&T) -> serde_json::Result<String> + Send + 'static,
{
    // Standard output may be a terminal. To who reads it as JSON the line means the same.
    let stdout = *target == Target::Stdout;
    let render = move |item: &T| {
        let line = render(item)?;
        Ok(if stdout { terminal::escape(&line).into_owned() } else { line })
    };
    let (output, items) = (Output::open(target)?, VecDeque::new());
    let lines = Lines { output, items, pending: Vec::new(), begun: false, render };
    Ok(Sink::start(name, queue, counters, lines)?)
}

/// The thread's side.
struct Lines<T, W, R> {
    output: W,
    /// What the lines of `pending` were made of.
    items: VecDeque<T>,
    /// Lines not yet written; begins within a line after a disk filled up there.
    pending: Vec<u8>,
    /// Whether it does.
    begun: bool,
    render: R,
}

/// Something to write to that may have to be opened again.
trait Renew: Write + Send + 'static {
    /// Sees to it that what is written next goes where it belongs.
    fn renew(&mut self) -> io::Result<()>;
}

impl<T, W, R> Transport<T> for Lines<T, W, R>
where
    T: Send + 'static,
    W: Renew,
    R: Fn(&T) -> serde_json::Result<String> + Send + 'static,
{
    fn take(&mut self, item: T) -> Taken {
        match (self.render)(&item) {
            Ok(line) => {
                self.pending.extend_from_slice(line.as_bytes());
                self.pending.push(b'\n');
                self.items.push_back(item);
                Taken::Kept
            }
            Err(error) => {
                tracing::error!(%error, "an event cannot be written as JSON");
                Taken::Dropped
            }
        }
    }

    fn has_room(&self) -> bool {
        self.pending.len() < BATCH
    }

    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
        // A line that was begun is ended where it was begun.
        if !self.begun && !self.pending.is_empty() {
            self.output.renew()?;
        }
        while !self.pending.is_empty() {
            match self.output.write(&self.pending) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(taken) => {
                    self.begun = self.pending.get(taken - 1) != Some(&b'\n');
                    let lines = self.pending.drain(..taken).filter(|byte| *byte == b'\n').count();
                    self.items.drain(..lines.min(self.items.len()));
                    counters.delivered(lines);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn take_back(&mut self) -> Vec<T> {
        self.items.drain(..).collect()
    }

    fn longest_pause(&self) -> Duration {
        RETRY
    }
}

/// A file that is followed by its name, or standard output.
struct Output {
    file: File,
    path: Option<PathBuf>,
}

impl Output {
    fn open(target: &Target) -> Result<Self, OpenError> {
        match target {
            // Not through `io::Stdout`: it has a buffer of its own, which would hide what was written.
            Target::Stdout => {
                let owned = io::stdout().as_fd().try_clone_to_owned().map_err(OpenError::Stdout)?;
                Ok(Self { file: File::from(owned), path: None })
            }
            Target::File(path) => {
                let file = append(path).map_err(|source| OpenError::File { path: path.clone(), source })?;
                Ok(Self { file, path: Some(path.clone()) })
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Renew for Output {
    /// Opens the file again if another one, or none, has its name now.
    fn renew(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mine = self.file.metadata()?;
        let same = fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (mine.dev(), mine.ino()));
        if !same {
            self.file = append(path)?;
        }
        Ok(())
    }
}

/// Opens a file at its end. A line that a process before us left unfinished is ended.
fn append(path: &PathBuf) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() && meta.len() > 0 {
        let mut last = [b'\n'];
        // A file that may be written but not read is left as it is.
        if let Ok(mut reader) = File::open(path) {
            reader.seek(SeekFrom::End(-1))?;
            reader.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::sink::metrics::Agent;

    fn counters() -> Counters {
        Agent::new("0", 0.0).unwrap().sink_counters("test")
    }

    #[expect(clippy::ptr_arg, reason = "the items of these sinks are texts")]
    fn text(line: &String) -> serde_json::Result<String> {
        Ok(line.clone())
    }

    /// Takes five bytes at a time, is full for a while, and then goes on.
    struct FullForAWhile {
        file: Arc<Mutex<Vec<u8>>>,
        calls: u32,
        /// Bytes that were written when it was opened again.
        renewed: Arc<Mutex<Vec<usize>>>,
    }

    impl Renew for FullForAWhile {
        fn renew(&mut self) -> io::Result<()> {
            self.renewed.lock().unwrap().push(self.file.lock().unwrap().len());
            Ok(())
        }
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
        let (file, renewed, counters) = (Arc::default(), Arc::default(), counters());
        let output = FullForAWhile { file: Arc::clone(&file), calls: 0, renewed: Arc::clone(&renewed) };
        let lines = Lines { output, items: VecDeque::new(), pending: Vec::new(), begun: false, render: text };
        let sink = Sink::start("test", 10, counters.clone(), lines).unwrap();
        for line in ["first line", "second", "third"] {
            sink.push(line.to_owned());
        }
        while counters.waiting.get() > 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        sink.close(Duration::from_secs(10)).unwrap();
        assert_eq!(String::from_utf8(file.lock().unwrap().clone()).unwrap(), "first line\nsecond\nthird\n");
        assert_eq!((counters.written.get(), counters.errors.get(), counters.waiting.get()), (3, 1, 0));
        // Full within the first line, which is ended where it was begun.
        assert!(!renewed.lock().unwrap().contains(&5), "{renewed:?}");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let target = Target::File("/nonexistent/flows.json".into());
        let error = start("test", &target, 1, counters(), text).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot open /nonexistent/flows.json for appending: "),
            "{error}"
        );
    }

    #[test]
    fn a_full_disk_costs_lines_but_never_time() {
        let sink = start("test", &Target::File("/dev/full".into()), 4, counters(), text).unwrap();
        let counters = sink.counters().clone();
        for number in 0..20_000 {
            sink.push(format!("{number:0100}"));
        }
        let super::super::worker::Unwritten(left) = sink.close(Duration::from_secs(10)).unwrap_err();
        assert_eq!(counters.written.get(), 0);
        assert_eq!(left + counters.dropped.get(), 20_000, "each line is accounted for");
        assert!(counters.errors.get() > 0 && counters.dropped.get() > 0);
    }
}
