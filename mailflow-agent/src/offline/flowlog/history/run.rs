//! Records as bytes, in memory or in a temporary file, and what reads them.

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

use super::{Arrival, encoding};
use mailflow_engine::time::Time;

/// Bytes of a file that are read at once.
const READ: usize = 64 * 1024;

/// Directory of temporary files, unless `TMPDIR` names another. They are large, and `/tmp` is often in memory.
const TEMPORARY: &str = "/var/tmp";

/// Records, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Run(Bytes);

#[derive(Clone, Debug)]
enum Bytes {
    Memory(Arc<Vec<u8>>),
    File { file: Arc<File>, from: u64, to: u64 },
}

/// Appends runs to a temporary file, which is there for as long as any of them is.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    file: Option<(Arc<File>, u64)>,
}

/// Reads a run.
pub(crate) struct Reader {
    bytes: Bytes,
    /// Bytes that were read of a file.
    buffer: Vec<u8>,
    /// The next record's place in what is in memory.
    at: usize,
}

impl Run {
    pub(crate) fn in_memory(bytes: Vec<u8>) -> Self {
        Self(Bytes::Memory(Arc::new(bytes)))
    }

    /// Bytes that it takes in memory.
    pub(crate) fn held(&self) -> usize {
        match &self.0 {
            Bytes::Memory(bytes) => bytes.len(),
            Bytes::File { .. } => 0,
        }
    }

    pub(crate) fn reader(self) -> Reader {
        Reader { bytes: self.0, buffer: Vec::new(), at: 0 }
    }
}

impl Spill {
    /// Writes bytes as a run, or as a part of one that [`Spill::run`] makes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let (file, end) = match &mut self.file {
            Some(file) => file,
            none => none.insert((Arc::new(temporary(&directory())?), 0)),
        };
        let from = *end;
        file.as_ref().write_all(bytes).map_err(|error| named(&directory(), &error))?;
        *end += bytes.len() as u64;
        Ok(from)
    }

    /// Returns what was appended since `from` as a run.
    pub(crate) fn run(&self, from: u64) -> Option<Run> {
        let (file, to) = self.file.as_ref()?;
        Some(Run(Bytes::File { file: Arc::clone(file), from, to: *to }))
    }

    /// Begins another file with the next bytes.
    pub(crate) fn end(&mut self) {
        self.file = None;
    }
}

impl Reader {
    /// Returns the next record's moments, see [`encoding::moments`]; `None` at the end.
    #[inline]
    pub(crate) fn peek(&mut self) -> io::Result<Option<(Time, Time)>> {
        if self.rest().len() < encoding::LONGEST {
            self.fill()?;
        }
        match self.rest() {
            [] => Ok(None),
            rest => encoding::moments(rest).map(Some).ok_or_else(damaged),
        }
    }

    /// Returns the record that was looked at, without taking it.
    pub(crate) fn look(&self) -> Option<Arrival> {
        encoding::read(&mut self.rest())
    }

    /// Takes the record that was looked at.
    #[inline]
    pub(crate) fn take(&mut self) -> io::Result<Arrival> {
        let mut rest = self.rest();
        let before = rest.len();
        let arrival = encoding::read(&mut rest).ok_or_else(damaged)?;
        let taken = before - rest.len();
        self.at += taken;
        Ok(arrival)
    }

    fn rest(&self) -> &[u8] {
        let bytes = match &self.bytes {
            Bytes::Memory(bytes) => bytes.as_slice(),
            Bytes::File { .. } => &self.buffer,
        };
        bytes.get(self.at..).unwrap_or_default()
    }

    fn fill(&mut self) -> io::Result<()> {
        let Bytes::File { file, from, to } = &mut self.bytes else { return Ok(()) };
        if from == to {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let before = self.buffer.len();
        let more = usize::try_from(*to - *from).unwrap_or(READ).min(READ);
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
    env::var_os("TMPDIR").filter(|path| !path.is_empty()).map_or_else(|| TEMPORARY.into(), PathBuf::from)
}

/// A file without a name that others cannot open.
fn temporary(directory: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".mailflow-{}-{number}", process::id()));
        match OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path) {
            // One of an agent that was killed right here.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(named(directory, &error)),
            Ok(file) => {
                fs::remove_file(&path).map_err(|error| named(directory, &error))?;
                return Ok(file);
            }
        }
    }
}

fn named(directory: &Path, error: &io::Error) -> io::Error {
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
    fn a_place_where_no_file_can_be_made_is_named() {
        let error = temporary(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(
            error.starts_with("temporary file in /nonexistent (TMPDIR names another place): "),
            "{error}"
        );
    }

    #[test]
    fn a_temporary_file_has_no_name() {
        let directory = env::temp_dir().join(format!("mailflow-runs-{}", process::id()));
        fs::create_dir(&directory).unwrap();
        let mut file = temporary(&directory).unwrap();
        file.write_all(b"bytes").unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::remove_dir(directory).unwrap();
    }
}
