//! Errors of the state directory.

use std::{io, path::PathBuf};

/// Reason why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent uses the directory.
    #[error("the state directory {} is in use by another agent{}", path.display(), mailflow_kernel::holder_suffix(*.pid))]
    InUse {
        /// Path of the directory.
        path: PathBuf,
        /// Process id of the other agent, if known.
        pid: Option<u32>,
    },
    /// The directory belongs to another user, who could choose the state that the agent reads.
    #[error(
        "state directory {} belongs to user {owner}, and the agent runs as user {agent_user}: change its owner, run the \
         agent as that user, or name another directory", path.display()
    )]
    ForeignOwner {
        /// Path of the directory.
        path: PathBuf,
        /// Owner of the directory.
        owner: u32,
        /// User id of the agent.
        agent_user: u32,
    },
    /// Other users may write to the directory.
    #[error(
        "state directory {} may be written to by others (mode {mode:o}): remove that permission (chmod go-w), or name \
         another directory", path.display()
    )]
    WritableByOthers {
        /// Path of the directory.
        path: PathBuf,
        /// Mode of the directory.
        mode: u32,
    },
    /// The files would exceed `state.max_size`.
    #[error("state directory {}: {size} bytes are needed, and state.max_size is {limit}", path.display())]
    SizeLimit {
        /// Path of the directory.
        path: PathBuf,
        /// Bytes of all files after the write.
        size: u64,
        /// Limit in bytes.
        limit: u64,
    },
    /// A system call failed.
    #[error("state directory {}: {source}", path.display())]
    Io {
        /// Path of the directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A value cannot be serialised.
    #[error("state: {0}")]
    Encoding(#[from] mailflow_engine::checkpoint::codec::Error),
}

/// Policy for journal records that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFailurePolicy {
    /// The write fails, and the caller must not do what the records describe.
    Fail,
    /// The records are kept in memory, and so are all later ones until [`StateDir::write_checkpoint`]
    /// succeeds.
    KeepInMemory,
}
