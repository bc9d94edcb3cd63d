//! Machine id of systemd.

use serde::{Deserialize, Serialize};
use std::fs;

/// Machine id of a checkpoint; empty if the machine has none. The last record of the checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineId(pub(crate) String);

impl MachineId {
    /// Returns the id of the running machine.
    pub(crate) fn of_this_machine() -> Self {
        let text = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        Self(text.trim().to_owned())
    }
}
