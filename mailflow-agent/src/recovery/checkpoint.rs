//! Checkpoint: the state that an agent writes at intervals.

use super::journal::record;
use crate::{control::StoredAlert, outputs::pending_delivery::PendingDelivery};
use mailflow_kernel::ReaderCheckpoint;
use serde::{Deserialize, Serialize};

/// Version of the format of all state files. Files of another version are set aside.
pub(crate) const FORMAT_VERSION: u32 = 3;

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
    pub kernel: KernelCheckpointRepr,
    /// Time of the checkpoint, in nanoseconds.
    pub now: u64,
    /// Time of the last poll, in nanoseconds.
    pub last_poll: u64,
    /// Seeds of the flow fingerprints.
    pub fingerprint_seeds: [u64; 2],
    /// Open flows as of the last poll, by fingerprint.
    pub flows: Vec<[u64; 5]>,
    /// Checkpoint of the rules.
    pub rules: mailflow_engine::checkpoint::RulesCheckpoint,
    /// StoredAlert alerts, each with the time since when it fires.
    pub firing: Vec<(u64, StoredAlert)>,
    /// Alert events that some outputs have not delivered, oldest first.
    pub pending_deliveries: Vec<PendingDelivery>,
}

/// Serialised form of a kernel checkpoint, see [`ReaderCheckpoint`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelCheckpointRepr {
    pub(crate) prefix: u8,
    pub(crate) ticks: [u64; 3],
    pub(crate) baselines: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) ended: [u64; 4],
    pub(crate) overflow: [u64; 4],
    pub(crate) migrated: Vec<record::FlowRepr>,
    pub(crate) read_generations: Vec<u32>,
}

impl From<ReaderCheckpoint> for KernelCheckpointRepr {
    fn from(
        ReaderCheckpoint {
            prefix,
            ticks,
            baselines,
            ended,
            overflow,
            migrated,
            read_generations,
        }: ReaderCheckpoint,
    ) -> Self {
        let migrated = migrated.iter().map(record::to_repr).collect();
        Self { prefix, ticks, baselines, ended, overflow, migrated, read_generations }
    }
}

impl From<KernelCheckpointRepr> for ReaderCheckpoint {
    fn from(
        KernelCheckpointRepr { prefix, ticks, baselines, ended, overflow, migrated, read_generations }: KernelCheckpointRepr,
    ) -> Self {
        let migrated = migrated.into_iter().map(record::from_repr).collect();
        Self { prefix, ticks, baselines, ended, overflow, migrated, read_generations }
    }
}
