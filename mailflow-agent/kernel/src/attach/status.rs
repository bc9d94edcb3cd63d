//! Status of the watched interfaces and of the programs there.

use std::time::Duration;

use crate::{
    host::hook::{Attachment, Direction},
    options::{Hook, Role},
};
use mailflow_engine::time::Time;

/// Interval of verification.
pub(super) const VERIFY_INTERVAL: Duration = Duration::from_secs(60);

/// Place of a program, and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentStatus {
    /// Name of the interface in the configuration.
    pub interface: String,
    /// Direction.
    pub direction: Direction,
    /// Kind of attachment, or the last one if it is detached.
    pub attachment: Attachment,
    /// Attached or detached.
    pub state: AttachState,
    /// Number of times that it was attached again.
    pub reattach_count: u64,
}

/// State of a program at its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachState {
    /// Attached.
    Attached {
        /// Position among the programs of the hook, from 1; `None` if unknown.
        position: Option<u32>,
    },
    /// Detached.
    Detached,
}

/// Time of the next verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// After a minute.
    WhenDue,
    /// Now, after a change.
    Now,
}

/// Entry of the configuration, and the interfaces to which it is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryBinding {
    /// Name or pattern.
    pub entry: String,
    /// True for a pattern.
    pub pattern: bool,
    /// Interfaces that exist.
    pub interfaces: Vec<BoundInterface>,
    /// Hook in the configuration.
    pub hook: Hook,
    /// Time since which no such interface exists, set at the first look after it disappeared.
    pub missing_since: Option<Time>,
}

/// Interface to which an entry is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundInterface {
    /// Interface index.
    pub index: u32,
    /// Name, as in [`AttachmentStatus::interface`].
    pub name: String,
    /// Role.
    pub role: Role,
}
