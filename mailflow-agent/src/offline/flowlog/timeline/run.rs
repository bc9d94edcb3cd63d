//! Runs: encoded records in memory or in a temporary file, and their reader.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{TimedRecord, record_encoding};
use mailflow_engine::time::Time;

/// Number of bytes that are read of a file at once.
const READ_BYTES: usize = 64 * 1024;

/// Directory of temporary files, unless `TMPDIR` names another. They are large, and `/tmp` is often in
/// memory.
const DEFAULT_TEMP_DIR: &str = "/var/tmp";

/// Sequence of encoded records.
#[derive(Clone, Debug)]
pub(crate) struct RecordRun(RunBytes);

#[derive(Clone, Debug)]
enum RunBytes {
    Memory(Arc<Vec<u8>>),
    File { file: Arc<File>, from: u64, to: u64 },
}

/// Writer of runs to a temporary file, which exists as long as a run of it does.
#[derive(Debug, Default)]
pub(crate) struct RunFile {
    file: Option<(Arc<File>, u64)>,
}

/// Reader of a run.
pub(crate) struct RunReader {
    bytes: RunBytes,
    /// Bytes that were read from the file.
    buffer: Vec<u8>,
    /// Offset of the next record in the bytes in memory.
    at: usize,
}

impl RecordRun {
    pub(crate) fn in_memory(bytes: Vec<u8>) -> Self {
        Self(RunBytes::Memory(Arc::new(bytes)))
    }

    /// Returns the number of bytes of the run in memory.
    pub(crate) fn bytes_in_memory(&self) -> usize {
        match &self.0 {
            RunBytes::Memory(bytes) => bytes.len(),
            RunBytes::File { .. } => 0,
        }
    }

    pub(crate) fn reader(self) -> RunReader {
        RunReader { bytes: self.0, buffer: Vec::new(), at: 0 }
    }
}

impl RunFile {
    /// Appends bytes of a run, and returns their offset, for [`RunFile::run`].
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let (file, end) = match &mut self.file {
            Some(file) => file,
            none => none.insert((Arc::new(create_temp_file(&directory())?), 0)),
        };
        let from = *end;
        file.as_ref().write_all(bytes).map_err(|error| with_directory(&directory(), &error))?;
        *end += bytes.len() as u64;
        Ok(from)
    }

    /// Returns the bytes since the offset `from` as a run.
    pub(crate) fn run(&self, from: u64) -> Option<RecordRun> {
        let (file, to) = self.file.as_ref()?;
        Some(RecordRun(RunBytes::File { file: Arc::clone(file), from, to: *to }))
    }

    /// Ends this file. The next bytes begin another one.
    pub(crate) fn end(&mut self) {
        self.file = None;
    }
}

impl RunReader {
    /// Returns the times of the next record, see [`record_encoding::order_times`]; `None` at the end.
    #[inline]
    pub(crate) fn peek(&mut self) -> io::Result<Option<(Time, Time)>> {
        if self.rest().len() < record_encoding::MAX_ENCODED_BYTES {
            self.fill()?;
        }
        match self.rest() {
            [] => Ok(None),
            rest => record_encoding::order_times(rest).map(Some).ok_or_else(damaged),
        }
    }

    /// Returns the record after a [`RunReader::peek`], without taking it.
    pub(crate) fn peek_record(&self) -> Option<TimedRecord> {
        record_encoding::read(&mut self.rest())
    }

    /// Takes the record after a [`RunReader::peek`].
    #[inline]
    pub(crate) fn take(&mut self) -> io::Result<TimedRecord> {
        let mut rest = self.rest();
        let before = rest.len();
        let record = record_encoding::read(&mut rest).ok_or_else(damaged)?;
        let length = before - rest.len();
        self.at += length;
        Ok(record)
    }

    fn rest(&self) -> &[u8] {
        let bytes = match &self.bytes {
            RunBytes::Memory(bytes) => bytes.as_slice(),
            RunBytes::File { .. } => &self.buffer,
        };
        bytes.get(self.at..).unwrap_or_default()
    }

    fn fill(&mut self) -> io::Result<()> {
        let RunBytes::File { file, from, to } = &mut self.bytes else { return Ok(()) };
        if from == to {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let before = self.buffer.len();
        let more = usize::try_from(*to - *from).unwrap_or(READ_BYTES).min(READ_BYTES);
        self.buffer.resize(before + more, 0);
        file.read_exact_at(self.buffer.get_mut(before..).unwrap_or_default(), *from)?;
        *from += more as u64;
        Ok(())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the temporary file of sorted records is damaged")
}

fn directory() -> PathBuf {
    env::var_os("TMPDIR")
        .filter(|path| !path.is_empty())
        .map_or_else(|| DEFAULT_TEMP_DIR.into(), PathBuf::from)
}

/// Creates a file without a name, so that no other process can open it.
fn create_temp_file(directory: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".mailflow-{}-{number}", process::id()));
        match OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path) {
            // The file of a process that was killed before it could remove the name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(with_directory(directory, &error)),
            Ok(file) => {
                fs::remove_file(&path).map_err(|error| with_directory(directory, &error))?;
                return Ok(file);
            }
        }
    }
}

fn with_directory(directory: &Path, error: &io::Error) -> io::Error {
    let directory = directory.display();
    io::Error::new(
        error.kind(),
        format!("temporary file in {directory} (TMPDIR names another place): {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_directory() {
        let error = create_temp_file(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(
            error.starts_with("temporary file in /nonexistent (TMPDIR names another place): "),
            "{error}"
        );
    }

    #[test]
    fn a_temporary_file_has_no_name() {
        let directory = env::temp_dir().join(format!("mailflow-runs-{}", process::id()));
        fs::create_dir(&directory).unwrap();
        let mut file = create_temp_file(&directory).unwrap();
        file.write_all(b"bytes").unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::remove_dir(directory).unwrap();
    }
}
