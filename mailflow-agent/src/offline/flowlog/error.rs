//! Errors of flow logs, with their locations.

use std::{fmt, io, path::PathBuf};

/// Reason why a log, or a line of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened or read further.
    #[error("{}: {source}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file is no flow log of a supported format.
    #[error("{}: {found}: expected JSON lines with `event_type` (mailflow's or Suricata's EVE), JSON lines \
             with `id.orig_h` (Zeek's conn.log), or Zeek's conn.log with its `#fields` line; plain or gzip",
            path.display())]
    Format {
        /// Path of the file.
        path: PathBuf,
        /// Description of the contents.
        found: String,
    },
    /// One line cannot be read. The next ones can.
    #[error("{}:{line}:{error}", path.display())]
    Line {
        /// Path of the file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// Error of the line.
        error: LineError,
    },
}

/// Error of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Column, in bytes from 1.
    pub column: usize,
    /// Name of the field; empty if the line as a whole is wrong.
    pub field: String,
    /// Value, and what was expected.
    pub message: String,
}

impl LineError {
    pub(crate) fn new(column: usize, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { column, field: field.into(), message: message.into() }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
