//! Status of the watched interfaces and of the programs there.

use std::time::Duration;

use crate::{
    host::hook::{Attachment, Direction},
    options::{Hook, Role},
};
use mailflow_engine::time::Time;

/// How often every program's place is verified.
pub(super) const EVERY: Duration = Duration::from_secs(60);

/// Where a program belongs, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The interface, as configured.
    pub interface: String,
    /// Where there.
    pub direction: Direction,
    /// By what kind of hook; while it is not attached, by what kind it was.
    pub attachment: Attachment,
    /// Whether it is there.
    pub standing: Standing,
    /// How often it was attached again.
    pub again: u64,
}

/// How a program stands at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is attached.
    Attached {
        /// In the order of its hook's programs, 1 being the first; `None` where that cannot be told.
        position: Option<u32>,
    },
    /// It is not.
    Detached,
}

/// When to look for programs that others have moved or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Once a minute.
    WhenDue,
    /// Now: something has changed.
    Now,
}

/// An entry of the configuration, and what it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The name or the pattern, as configured.
    pub entry: String,
    /// The entry is a pattern.
    pub pattern: bool,
    /// The interfaces that are there.
    pub interfaces: Vec<BoundInterface>,
    /// Hook, as configured.
    pub hook: Hook,
    /// Since when there is no such interface; set at the first look after it went.
    pub missing: Option<Time>,
}

/// An interface that an entry of the configuration is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundInterface {
    /// The kernel's number of it.
    pub number: u32,
    /// Its name, as in [`Place::interface`].
    pub name: String,
    /// Its role.
    pub role: Role,
}
