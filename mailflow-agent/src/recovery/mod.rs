//! Crash recovery: the write-ahead journal, the input log, the checkpoint, and the restore from them.

pub(crate) mod checkpoint;
pub(crate) mod checkpointer;
pub(crate) mod directory;
pub(crate) mod durability;
pub(crate) mod error;
mod journal;
pub(crate) mod machine_id;
pub mod poll_records;
pub(crate) mod recovered;
pub mod redo;
pub(crate) mod restore;
pub mod state_dir;
