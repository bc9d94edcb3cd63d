//! What cannot be read, and where.

use std::{fmt, io, path::PathBuf};

/// Why a log, or a line of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened or read on.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is no flow log that is known here.
    #[error("{}: {found}: expected JSON lines with `event_type` (mailflow's or Suricata's EVE), JSON lines \
             with `id.orig_h` (Zeek's conn.log), or Zeek's conn.log with its `#fields` line; plain or gzip",
            path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// One line cannot be read; the next ones can.
    #[error("{}:{line}:{error}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        error: LineError,
    },
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The column, in bytes from 1.
    pub column: usize,
    /// The field; empty where the line has no fields to speak of.
    pub field: String,
    /// The value and what was expected.
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
