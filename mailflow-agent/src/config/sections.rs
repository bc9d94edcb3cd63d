//! Validated sections of a configuration that have no folder of their own.

use crate::util::disk::Limits;
use mailflow_kernel::options::AtStop;
use std::{path::PathBuf, time::Duration};

/// The kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTable {
    /// Flows that are counted at the same time.
    pub flows: u32,
    /// Sources that are counted beyond that.
    pub overflow: u32,
    /// How much of `flows` one source may hold.
    pub share_percent: u32,
    /// How much of `flows` and of `overflow` clients alone may fill.
    pub half_open_percent: u32,
}

impl FlowTable {
    /// Most flows of one source.
    pub fn flows_per_source(&self) -> u32 {
        let share = u64::from(self.flows) * u64::from(self.share_percent) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }
}

/// How the running agent is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The Unix socket; `None` for none.
    pub socket: Option<PathBuf>,
}

/// What outlives the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where its state and its journal lie; `None`: nothing is remembered.
    pub directory: Option<PathBuf>,
    /// Directory of a BPF file system under which tables and links are pinned; `None`: they end with the agent.
    pub pins: Option<PathBuf>,
    /// What becomes of the attached programs when the agent is stopped.
    pub at_stop: AtStop,
    /// Limits of the files in `directory` together.
    pub limits: Limits,
    /// How long flows wait in the kernel's table for a directory that takes nothing.
    pub durability_timeout: Duration,
}
