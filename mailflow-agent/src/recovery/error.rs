//! Errors of the state directory.

use std::{io, path::PathBuf};

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent uses the directory.
    #[error("the state directory {} is in use by another agent{}", path.display(), mailflow_kernel::holder_suffix(*.pid))]
    Held {
        /// The directory.
        path: PathBuf,
        /// The agent's process, where it can be told.
        pid: Option<u32>,
    },
    /// It belongs to somebody else, who may choose what the agent reads.
    #[error(
        "state directory {} belongs to user {owner}, and the agent runs as user {ours}: change its owner, run the \
         agent as that user, or name another directory", path.display()
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who the agent runs as.
        ours: u32,
    },
    /// Others may write to it.
    #[error(
        "state directory {} may be written to by others (mode {mode:o}): take that away (chmod go-w), or name \
         another directory", path.display()
    )]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The files have reached their bound.
    #[error("state directory {}: {size} bytes are needed, and state.max_size is {limit}", path.display())]
    Size {
        /// The directory.
        path: PathBuf,
        /// Bytes of all files, once this is written.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// The system refuses.
    #[error("state directory {}: {source}", path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something cannot be written down.
    #[error("state: {0}")]
    Encoding(#[from] postcard::Error),
}

/// What becomes of entries that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// An error; nothing may be done that they are about.
    Refused,
    /// They are kept in memory, and so are all that follow, until [`Store::keep`] succeeds.
    InMemory,
}
