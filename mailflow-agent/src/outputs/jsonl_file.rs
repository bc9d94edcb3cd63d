//! Lines to a file or standard output. A file may be rotated, by renaming it or by copying and
//! truncating it, and a disk that is full is tried again: no line is cut in two or written twice.
//!
//! A file that has reached its greatest size is renamed, with `.full` behind its name, in the place of the one before
//! it, and a new one is begun: the newest lines are the ones to keep. Where less than the reserve would stay free on the
//! disk nothing is written, as on a full disk.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use prometheus::{IntCounter, IntGauge};

use super::worker::{Counters, NoThread, Sink, Taken, Transport};
use crate::{
    config::Target,
    util::{
        disk::{FileLimits, is_disk_failure},
        terminal,
    },
};

/// Bytes after which a batch is written even if more lines wait.
const BATCH: usize = 64 * 1024;
/// Pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Mode of a file that is made, less the umask: it holds addresses.
const MODE: u32 = 0o640;
/// Behind the name of a file that has reached its greatest size.
const FULL: &str = ".full";
/// The setting of the reserve, as errors name it.
const MIN_FREE: &str = "outputs.files.min_free";

/// Limits of a file, and what becomes of it at them.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// The limits.
    pub limits: FileLimits,
    /// Files that reached their greatest size and were renamed.
    pub replaced: IntCounter,
    /// 1 while lines wait because the reserve must stay free.
    pub waits: IntGauge,
}

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
    start_within(name, target, queue, counters, None, render)
}

/// The same within bounds.
///
/// # Errors
/// As above.
pub fn start_within<T, R>(
    name: &str,
    target: &Target,
    queue: usize,
    counters: Counters,
    bounds: Option<Bounds>,
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
    let (output, items) = (Output::open(target, bounds)?, VecDeque::new());
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
    /// True if `pending` begins within a line.
    begun: bool,
    render: R,
}

/// Something to write to that may have to be opened again.
trait Renew: Write + Send + 'static {
    /// Sees to it that so many bytes that are written next go where they belong, and may be written.
    fn renew(&mut self, bytes: usize) -> io::Result<()>;
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
            self.output.renew(self.pending.len())?;
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
    /// None until the disk takes a file.
    file: Option<File>,
    path: Option<PathBuf>,
    bounds: Option<Bounds>,
}

impl Output {
    fn open(target: &Target, bounds: Option<Bounds>) -> Result<Self, OpenError> {
        match target {
            // Not through `io::Stdout`: it has a buffer of its own, which would hide what was written.
            Target::Stdout => {
                let owned = io::stdout().as_fd().try_clone_to_owned().map_err(OpenError::Stdout)?;
                Ok(Self { file: Some(File::from(owned)), path: None, bounds: None })
            }
            Target::File(path) => {
                let file = match append(path) {
                    // Counting does not wait for it.
                    Err(error) if is_disk_failure(&error) => {
                        tracing::warn!(file = %path.display(), %error, "a file cannot be opened yet; it is tried on");
                        None
                    }
                    opened => Some(opened.map_err(|source| OpenError::File { path: path.clone(), source })?),
                };
                Ok(Self { file, path: Some(path.clone()), bounds })
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().ok_or(ErrorKind::NotConnected)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Renew for Output {
    /// Opens the file again if another one, or none, has its name now.
    fn renew(&mut self, bytes: usize) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let id = |found: fs::Metadata| (found.dev(), found.ino());
        let mine = self.file.as_ref().map(File::metadata).transpose()?.map(id);
        let file = match &mut self.file {
            Some(file) if fs::metadata(path).ok().map(id) == mine => file,
            other => other.insert(append(path)?),
        };
        let Some(Bounds { limits, replaced, waits }) = &self.bounds else { return Ok(()) };
        let found = file.metadata()?;
        if !found.is_file() {
            return Ok(());
        }
        let more = bytes as u64;
        // A batch is small: what it takes of the reserve does no harm.
        let room = limits.min_free.check(&*file, 0, MIN_FREE);
        waits.set(i64::from(room.is_err()));
        room?;
        if found.len() > 0 && found.len().saturating_add(more) > limits.max_size {
            let full = full(path);
            fs::rename(path, &full)?;
            *file = append(path)?;
            replaced.inc();
            tracing::warn!(
                file = %path.display(), full = %full.display(), max_size = limits.max_size,
                "a file has reached outputs.files.max_size: it is renamed, in the place of the one before it"
            );
        }
        Ok(())
    }
}

/// The name of a file that has reached its greatest size.
fn full(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(FULL);
    name.into()
}

/// Opens a file at its end. A line that a process before us left unfinished is ended.
fn append(path: &PathBuf) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
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
    use crate::metrics::Agent;

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
        fn renew(&mut self, _: usize) -> io::Result<()> {
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

    /// A file within these limits in a folder of its own, and its metrics.
    fn within(name: &str, limits: FileLimits) -> (PathBuf, Sink<String>, Agent) {
        let folder = std::env::temp_dir().join(format!("mailflow-lines-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let (path, agent) = (folder.join("lines.json"), Agent::new("0", 0.0).unwrap());
        let target = Target::File(path.clone());
        let bounds = Some(agent.file_bounds(name, limits));
        let sink = start_within(name, &target, 100, agent.sink_counters(name), bounds, text).unwrap();
        (path, sink, agent)
    }

    fn wait_until_written(sink: &Sink<String>) {
        while sink.waiting() > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_file_at_its_greatest_size_is_renamed_and_the_newest_lines_stay() {
        let limits = FileLimits { max_size: 30, ..FileLimits::NONE };
        let (path, sink, agent) = within("size", limits);
        for number in 0..9 {
            sink.push(format!("line {number:04}"));
            wait_until_written(&sink);
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&path), "line 0006\nline 0007\nline 0008\n");
        assert_eq!(read(&full(&path)), "line 0003\nline 0004\nline 0005\n");
        // A line that is larger than the file may be has a file of its own.
        sink.push("x".repeat(100));
        wait_until_written(&sink);
        assert_eq!((read(&path).len(), read(&full(&path)).len()), (101, 30));
        assert_eq!(agent.sinks()["size"]["files_replaced"], 3);
        for path in [&path, &full(&path)] {
            let mode = fs::metadata(path).unwrap().mode();
            assert_eq!(mode & 0o137, 0, "{mode:o}: others may read or write");
        }
        sink.close(Duration::from_secs(10)).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn lines_wait_while_the_reserve_would_be_used() {
        let limits = FileLimits { min_free: crate::util::disk::Reserve::Bytes(u64::MAX), ..FileLimits::NONE };
        let (path, sink, agent) = within("reserve", limits);
        sink.push("a line".to_owned());
        while sink.counters().errors.get() == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let numbers = agent.sinks();
        assert_eq!((numbers["reserve"]["waits_for_room"], numbers["reserve"]["queue_lines"]), (1, 1));
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        assert!(sink.close(Duration::from_secs(10)).is_err());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
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
