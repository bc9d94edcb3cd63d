//! Persistence: pinned maps and links, and what the next agent must know of them.

pub(crate) mod bpffs;
pub(crate) mod lock;
pub(crate) mod migrate;
pub(crate) mod migrated_flows;
pub(crate) mod pins;
pub(crate) mod reader_checkpoint;
pub(crate) mod recovery;
pub(crate) mod stale_checkpoint;
