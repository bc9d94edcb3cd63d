//! Checkpoint: the state that an agent writes at intervals.

use crate::outputs::pending_delivery::PendingDelivery;
use mailflow_engine::checkpoint::{FlowTableCheckpoint, RulesCheckpoint};
use mailflow_kernel::ReaderCheckpoint;
use serde::{Deserialize, Serialize};

/// Version of the format of all state files. Files of another version are set aside.
pub(crate) const FORMAT_VERSION: u32 = 5;

pub(crate) const CHECKPOINT_FILE: &str = "state";

pub(crate) const JOURNAL_FILE: &str = "journal";

#[derive(Serialize, Deserialize)]
pub(crate) struct CheckpointHeader {
    pub(crate) version: u32,
    /// Boot id of the machine: times and maps are valid in this boot only.
    pub(crate) boot: String,
}

/// State of an agent at one time.
#[derive(Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Kernel's id of the flow table, if the maps are pinned. The kernel checkpoint belongs to these maps.
    pub flow_table_id: Option<u32>,
    /// Checkpoint of the reader of the kernel maps.
    pub kernel: ReaderCheckpoint,
    /// Time of the checkpoint, in nanoseconds.
    pub now: u64,
    /// Open flows as of the last poll.
    pub flows: FlowTableCheckpoint,
    /// Checkpoint of the rules.
    pub rules: RulesCheckpoint,
    /// Alert events that some outputs have not delivered, oldest first.
    pub pending_deliveries: Vec<PendingDelivery>,
}
