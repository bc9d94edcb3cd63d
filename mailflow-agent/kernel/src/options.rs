//! Options: which interfaces are watched, in which role and at which hook, what outlives the agent, and how the program
//! is loaded.

use std::collections::BTreeSet;

use mailflow_common::HashKeys;

use crate::host::name_pattern::NamePattern;
use mailflow_engine::settings::Timeouts;

/// Interface to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, or a pattern of names ([`NamePattern`]).
    pub name: String,
    /// Role.
    pub role: Role,
    /// Hook.
    pub hook: Hook,
}

impl Interface {
    /// Returns the pattern, if the entry is one.
    pub fn pattern(&self) -> Option<NamePattern> {
        NamePattern::is_pattern(&self.name).then(|| NamePattern::parse(&self.name).ok()).flatten()
    }
}

/// Role of an interface: what passes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Chosen at start, with the reason logged.
    #[default]
    Auto,
    /// Inside of a gateway.
    Lan,
    /// Traffic of this machine.
    Host,
    /// Copies of both directions.
    Mirror,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 4] = [Role::Auto, Role::Lan, Role::Host, Role::Mirror];

    /// The name in configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Auto => "auto",
            Role::Lan => "lan",
            Role::Host => "host",
            Role::Mirror => "mirror",
        }
    }

    /// Returns the roles that an interface may have with this setting, now or later.
    pub const fn possible(self) -> &'static [Role] {
        match self {
            Role::Auto => &[Role::Lan, Role::Host],
            Role::Lan => &[Role::Lan],
            Role::Host => &[Role::Host],
            Role::Mirror => &[Role::Mirror],
        }
    }
}

/// Hook of the programs of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Native XDP where nothing is lost by it, otherwise TC.
    #[default]
    Auto,
    /// XDP at ingress, TC at egress.
    Xdp,
    /// TC (TCX, or clsact before Linux 6.6).
    Tc,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Hook; 3] = [Hook::Auto, Hook::Xdp, Hook::Tc];

    /// The name in configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Hook::Auto => "auto",
            Hook::Xdp => "xdp",
            Hook::Tc => "tc",
        }
    }
}

/// Level of the kernel log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogLevel {
    /// Packets of flows and sources without an entry.
    Error,
    /// Also packets that may be mail and were not counted to their flow.
    Warn,
    /// Also packets with headers deeper than the program parses.
    Info,
    /// No further messages than `Info`.
    Debug,
    /// No further messages than `Info`.
    Trace,
}

impl LogLevel {
    /// Every level.
    pub const ALL: [LogLevel; 5] =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// State of the attached programs after a stop of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtStop {
    /// Detach: nothing is counted any more.
    Detach,
    /// Keep counting; the next agent reads the counts.
    Keep,
}

impl AtStop {
    /// Both.
    pub const ALL: [AtStop; 2] = [AtStop::Detach, AtStop::Keep];

    /// The name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            AtStop::Detach => "detach",
            AtStop::Keep => "keep",
        }
    }
}

/// Options of loading.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Capacity of the flow table.
    pub flows: u32,
    /// Largest number of flows of a source.
    pub flows_per_source: u32,
    /// Capacity of the overflow map.
    pub overflow: u32,
    /// Percentage of each map that packets of clients alone may fill. The rest is for flows that a server
    /// answers.
    pub half_open_percent: u32,
    /// Length of the IPv6 prefix that makes a source.
    pub ipv6_prefix: u8,
    /// True if `host` interfaces count only this machine, as there are `lan` interfaces too.
    pub local_only: bool,
    /// True if the caller sets the time before each frame (replay).
    pub external_clock: bool,
    /// Timeouts of the engine. After an idle timeout the next packet of a 5-tuple begins a new flow.
    pub timeouts: Timeouts,
    /// Programs to load.
    pub programs: Programs,
    /// Level of the kernel log; `None` for no log.
    pub kernel_log: Option<LogLevel>,
    /// Keys of the hashes, for tests of collisions; random if `None`.
    pub hash_keys: Option<HashKeys>,
}

/// Programs to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programs {
    /// All programs that this kernel supports.
    All,
    /// Programs of these roles that this kernel supports.
    Roles(BTreeSet<Role>),
    /// One program, to run frames through it.
    One(&'static str),
}
