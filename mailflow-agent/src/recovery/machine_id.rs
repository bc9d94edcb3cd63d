//! The machine's identity, as systemd knows it.

use serde::{Deserialize, Serialize};
use std::fs;

/// The machine that a state is of: systemd's machine id, empty where there is none. Behind the state in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineId(pub(crate) String);

impl MachineId {
    /// The running machine's.
    pub(crate) fn of_this_machine() -> Self {
        let text = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        Self(text.trim().to_owned())
    }
}
