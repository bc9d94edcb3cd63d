//! JSON lines to a file or standard output. The file may be rotated by renaming or by copying and truncating.
//! After a full disk the write is retried: no line is split or written twice.
//!
//! A file that has reached its maximum size is renamed with the suffix `.full`, replaces the previous such
//! file, and a new file is opened. The newest lines are kept. Nothing is written while the disk has less free
//! space than the reserve.

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

use super::worker::{Acceptance, SinkCounters, SinkWorker, SpawnError, Transport};
use crate::{
    config::Target,
    util::{
        disk::{FileLimits, is_disk_failure},
        terminal,
    },
};

/// Size at which a batch is written even if more lines wait.
const BATCH_BYTES: usize = 64 * 1024;
/// Pause before a failed write is retried.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Mode of a new file, less the umask. The file contains addresses.
const FILE_MODE: u32 = 0o640;
/// Suffix of a file that has reached its maximum size.
const FULL_SUFFIX: &str = ".full";
/// Configuration key of the reserve in error messages.
const MIN_FREE_SETTING: &str = "outputs.files.min_free";

/// Size limits of a file, and metrics of their enforcement.
#[derive(Clone, Debug)]
pub struct FileBounds {
    /// Size limit and disk reserve.
    pub limits: FileLimits,
    /// Number of files renamed at their maximum size.
    pub files_replaced: IntCounter,
    /// 1 while lines wait because the reserve must stay free.
    pub waiting_for_space: IntGauge,
}

/// Reason why a sink could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Failure to open the file for appending.
    #[error("cannot open {} for appending: {source}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the system.
        source: io::Error,
    },
    /// Failure to use standard output.
    #[error("cannot use standard output: {0}")]
    Stdout(io::Error),
    /// Failure to start the thread.
    #[error(transparent)]
    Thread(#[from] SpawnError),
}

/// Opens `target` and starts a sink that writes each item as the line that `render` returns.
///
/// # Errors
/// The target cannot be opened, or the thread cannot be started.
pub fn start<T, R>(
    name: &str,
    target: &Target,
    queue: usize,
    counters: SinkCounters,
    render: R,
) -> Result<SinkWorker<T>, OpenError>
where
    T: Send + 'static,
    R: Fn(&T) -> serde_json::Result<String> + Send + 'static,
{
    start_bounded(name, target, queue, counters, None, render)
}

/// Opens `target` with limits and starts a sink that writes each item as the line that `render` returns.
///
/// # Errors
/// The target cannot be opened, or the thread cannot be started.
pub fn start_bounded<T, R>(
    name: &str,
    target: &Target,
    queue: usize,
    counters: SinkCounters,
    bounds: Option<FileBounds>,
    render: R,
) -> Result<SinkWorker<T>, OpenError>
where
    T: Send + 'static,
    R: Fn(&T) -> serde_json::Result<String> + Send + 'static,
{
    // Standard output may be a terminal. The escaped line has the same meaning to a JSON parser.
    let stdout = *target == Target::Stdout;
    let render = move |item: &T| {
        let line = render(item)?;
        Ok(if stdout { terminal::escape(&line).into_owned() } else { line })
    };
    let (output, items) = (LineFile::open(target, bounds)?, VecDeque::new());
    let lines = LineTransport { output, items, pending: Vec::new(), mid_line: false, render };
    Ok(SinkWorker::start(name, queue, counters, lines)?)
}

/// Transport of lines, owned by the thread of the sink.
struct LineTransport<T, W, R> {
    output: W,
    /// Items whose lines are in `pending`.
    items: VecDeque<T>,
    /// Lines not yet written. The first may be the rest of a line that a full disk interrupted.
    pending: Vec<u8>,
    /// True if `pending` starts with the rest of a line.
    mid_line: bool,
    render: R,
}

/// Writer that may have to reopen its file.
trait Reopen: Write + Send + 'static {
    /// Reopens a rotated file, and checks that `bytes` more may be written.
    fn reopen(&mut self, bytes: usize) -> io::Result<()>;
}

impl<T, W, R> Transport<T> for LineTransport<T, W, R>
where
    T: Send + 'static,
    W: Reopen,
    R: Fn(&T) -> serde_json::Result<String> + Send + 'static,
{
    fn accept(&mut self, item: T) -> Acceptance {
        match (self.render)(&item) {
            Ok(line) => {
                self.pending.extend_from_slice(line.as_bytes());
                self.pending.push(b'\n');
                self.items.push_back(item);
                Acceptance::Queued
            }
            Err(error) => {
                tracing::error!(%error, "failed to format an event as JSON; it is lost");
                Acceptance::Dropped
            }
        }
    }

    fn can_accept(&self) -> bool {
        self.pending.len() < BATCH_BYTES
    }

    fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
        // The rest of a line belongs to the file in which the line starts.
        if !self.mid_line && !self.pending.is_empty() {
            self.output.reopen(self.pending.len())?;
        }
        while !self.pending.is_empty() {
            match self.output.write(&self.pending) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(taken) => {
                    self.mid_line = self.pending.get(taken - 1) != Some(&b'\n');
                    let lines = self.pending.drain(..taken).filter(|byte| *byte == b'\n').count();
                    self.items.drain(..lines.min(self.items.len()));
                    counters.count_delivered(lines);
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

    fn take_undelivered(&mut self) -> Vec<T> {
        self.items.drain(..).collect()
    }

    fn max_pause(&self) -> Duration {
        RETRY_INTERVAL
    }
}

/// File that is reopened by its path after a rotation, or standard output.
struct LineFile {
    /// `None` until the disk accepts a file.
    file: Option<File>,
    path: Option<PathBuf>,
    bounds: Option<FileBounds>,
}

impl LineFile {
    /// Opens the file or standard output.
    fn open(target: &Target, bounds: Option<FileBounds>) -> Result<Self, OpenError> {
        match target {
            // `io::Stdout` has its own buffer, which would hide the number of bytes written.
            Target::Stdout => {
                let owned = io::stdout().as_fd().try_clone_to_owned().map_err(OpenError::Stdout)?;
                Ok(Self { file: Some(File::from(owned)), path: None, bounds: None })
            }
            Target::File(path) => {
                let file = match open_append(path) {
                    // The agent starts counting without waiting for the file.
                    Err(error) if is_disk_failure(&error) => {
                        tracing::warn!(file = %path.display(), %error, "failed to open a file; retrying");
                        None
                    }
                    opened => Some(opened.map_err(|source| OpenError::File { path: path.clone(), source })?),
                };
                Ok(Self { file, path: Some(path.clone()), bounds })
            }
        }
    }
}

impl Write for LineFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().ok_or(ErrorKind::NotConnected)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Reopen for LineFile {
    /// Opens the file again if its path names another file, or none.
    fn reopen(&mut self, bytes: usize) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file_id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let open_id = self.file.as_ref().map(File::metadata).transpose()?.map(file_id);
        let file = match &mut self.file {
            Some(file) if fs::metadata(path).ok().map(file_id) == open_id => file,
            other => other.insert(open_append(path)?),
        };
        let Some(FileBounds { limits, files_replaced, waiting_for_space }) = &self.bounds else {
            return Ok(());
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(());
        }
        let new_bytes = bytes as u64;
        // A batch is small: it may use a part of the reserve.
        let space = limits.min_free.check(&*file, 0, MIN_FREE_SETTING);
        waiting_for_space.set(i64::from(space.is_err()));
        space?;
        if metadata.len() > 0 && metadata.len().saturating_add(new_bytes) > limits.max_size {
            let full_path = full_path(path);
            fs::rename(path, &full_path)?;
            *file = open_append(path)?;
            files_replaced.inc();
            tracing::warn!(
                file = %path.display(), full_path = %full_path.display(), max_size = limits.max_size,
                "a file has reached outputs.files.max_size; it was renamed and replaces the previous one"
            );
        }
        Ok(())
    }
}

/// Returns the name of a file at its maximum size.
fn full_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(FULL_SUFFIX);
    name.into()
}

/// Opens a file for appending. Terminates a line that a previous process left incomplete.
fn open_append(path: &PathBuf) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() && meta.len() > 0 {
        let mut last = [b'\n'];
        // A file without read permission stays as it is.
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
    use crate::metrics::AgentMetrics;

    fn counters() -> SinkCounters {
        AgentMetrics::new("0", 0.0).unwrap().sink_counters("test")
    }

    #[expect(clippy::ptr_arg, reason = "the items of these sinks are texts")]
    fn identity(line: &String) -> serde_json::Result<String> {
        Ok(line.clone())
    }

    /// Writer that accepts five bytes at a time and reports a full disk once.
    struct TemporarilyFull {
        file: Arc<Mutex<Vec<u8>>>,
        calls: u32,
        /// Length of the file at each reopen.
        lengths_at_reopen: Arc<Mutex<Vec<usize>>>,
    }

    impl Reopen for TemporarilyFull {
        fn reopen(&mut self, _: usize) -> io::Result<()> {
            self.lengths_at_reopen.lock().unwrap().push(self.file.lock().unwrap().len());
            Ok(())
        }
    }

    impl Write for TemporarilyFull {
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
    fn writes_every_line_once_after_a_full_disk() {
        let (file, lengths_at_reopen, counters) = (Arc::default(), Arc::default(), counters());
        let output = TemporarilyFull {
            file: Arc::clone(&file),
            calls: 0,
            lengths_at_reopen: Arc::clone(&lengths_at_reopen),
        };
        let lines = LineTransport {
            output,
            items: VecDeque::new(),
            pending: Vec::new(),
            mid_line: false,
            render: identity,
        };
        let sink = SinkWorker::start("test", 10, counters.clone(), lines).unwrap();
        for line in ["first line", "second", "third"] {
            sink.push(line.to_owned());
        }
        while counters.waiting.get() > 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        sink.close(Duration::from_secs(10)).unwrap();
        assert_eq!(String::from_utf8(file.lock().unwrap().clone()).unwrap(), "first line\nsecond\nthird\n");
        assert_eq!((counters.written.get(), counters.errors.get(), counters.waiting.get()), (3, 1, 0));
        // The disk is full within the first line, which is completed in the same file.
        assert!(!lengths_at_reopen.lock().unwrap().contains(&5), "{lengths_at_reopen:?}");
    }

    /// Returns a file with these limits in its own directory, its sink and its metrics.
    fn bounded_sink(name: &str, limits: FileLimits) -> (PathBuf, SinkWorker<String>, AgentMetrics) {
        let folder = std::env::temp_dir().join(format!("mailflow-lines-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let (path, agent) = (folder.join("lines.json"), AgentMetrics::new("0", 0.0).unwrap());
        let target = Target::File(path.clone());
        let bounds = Some(agent.file_bounds(name, limits));
        let sink = start_bounded(name, &target, 100, agent.sink_counters(name), bounds, identity).unwrap();
        (path, sink, agent)
    }

    fn wait_until_written(sink: &SinkWorker<String>) {
        while sink.waiting() > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn renames_a_file_at_its_maximum_size() {
        let limits = FileLimits { max_size: 30, ..FileLimits::NONE };
        let (path, sink, agent) = bounded_sink("size", limits);
        for number in 0..9 {
            sink.push(format!("line {number:04}"));
            wait_until_written(&sink);
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&path), "line 0006\nline 0007\nline 0008\n");
        assert_eq!(read(&full_path(&path)), "line 0003\nline 0004\nline 0005\n");
        // A line larger than the size limit gets its own file.
        sink.push("x".repeat(100));
        wait_until_written(&sink);
        assert_eq!((read(&path).len(), read(&full_path(&path)).len()), (101, 30));
        assert_eq!(agent.sinks()["size"]["files_replaced"], 3);
        for path in [&path, &full_path(&path)] {
            let mode = fs::metadata(path).unwrap().mode();
            assert_eq!(mode & 0o137, 0, "{mode:o}: others may read or write");
        }
        sink.close(Duration::from_secs(10)).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn lines_wait_for_the_disk_reserve() {
        let limits = FileLimits { min_free: crate::util::disk::Reserve::Bytes(u64::MAX), ..FileLimits::NONE };
        let (path, sink, agent) = bounded_sink("reserve", limits);
        sink.push("a line".to_owned());
        while sink.counters().errors.get() == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let numbers = agent.sinks();
        assert_eq!((numbers["reserve"]["waiting_for_disk"], numbers["reserve"]["queue_lines"]), (1, 1));
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        assert!(sink.close(Duration::from_secs(10)).is_err());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn names_a_file_that_cannot_be_opened() {
        let target = Target::File("/nonexistent/flows.json".into());
        let error = start("test", &target, 1, counters(), identity).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot open /nonexistent/flows.json for appending: "),
            "{error}"
        );
    }

    #[test]
    fn a_full_disk_drops_lines_without_blocking() {
        let sink = start("test", &Target::File("/dev/full".into()), 4, counters(), identity).unwrap();
        let counters = sink.counters().clone();
        for number in 0..20_000 {
            sink.push(format!("{number:0100}"));
        }
        let super::super::worker::Undelivered(left) = sink.close(Duration::from_secs(10)).unwrap_err();
        assert_eq!(counters.written.get(), 0);
        assert_eq!(left + counters.dropped.get(), 20_000, "each line is accounted for");
        assert!(counters.errors.get() > 0 && counters.dropped.get() > 0);
    }
}
