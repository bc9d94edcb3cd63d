//! Options: which interfaces are watched, in which role and at which hook, what outlives the agent, and how the program
//! is loaded.

use std::time::Duration;

use mailflow_common::{Facts, HashKeys};

use crate::host::name_pattern::NamePattern;
use mailflow_engine::settings::Timeouts;

/// An interface to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, or a pattern of names ([`NamePattern`]).
    pub name: String,
    /// What passes there.
    pub role: Role,
    /// Where the program is attached.
    pub hook: Hook,
}

impl Interface {
    /// The pattern, where the entry is one.
    pub fn pattern(&self) -> Option<NamePattern> {
        NamePattern::is_one(&self.name).then(|| NamePattern::parse(&self.name).ok()).flatten()
    }
}

/// What passes an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Chosen at start, with the reason logged.
    #[default]
    Auto,
    /// The inside of a gateway.
    Lan,
    /// The machine's own traffic.
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
}

/// Where the program is attached.
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

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogLevel {
    /// Packets that are in no table.
    Error,
    /// Also packets that may be mail and were not counted to their flow.
    Warn,
    /// Also those that are deeper than the program follows.
    Info,
    /// Nothing more, as yet.
    Debug,
    /// Nothing more, as yet.
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

/// What becomes of the attached programs when the agent is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtStop {
    /// They are taken away: nothing is counted any more.
    Detach,
    /// They stay and count; the next agent reads what they counted.
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

/// What the program is told at load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Capacity of the flow table.
    pub flows: u32,
    /// How many of the flows one source may hold.
    pub flows_per_source: u32,
    /// Capacity of the table for sources that have no place in it for a flow.
    pub overflow: u32,
    /// How much of either table clients alone may fill, in percent; the rest is for flows that a server answers.
    pub half_open_percent: u32,
    /// IPv6 clients with a prefix of this length in common are one source.
    pub ipv6_prefix: u8,
    /// Whether `host` interfaces stand beside `lan` ones and count only the machine's own.
    pub local_only: bool,
    /// Whether time is set from outside before each frame (replay) rather than the kernel's.
    pub external_clock: bool,
    /// When a tuple's next packet begins a new flow.
    pub silences: SilenceLimits,
    /// Which programs are loaded.
    pub programs: Programs,
    /// How much the program says of what it cannot count; nothing without.
    pub kernel_log: Option<LogLevel>,
    /// Keys of the tables' hashes, for tests of collisions; drawn at random without.
    pub hash_keys: Option<HashKeys>,
}

/// Which of the object's programs are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// Every one this kernel takes.
    All,
    /// This one, to run frames through it.
    One(&'static str),
}

/// How long a tuple may be silent before its next packet begins a new flow. They must be those by
/// which the engine ends flows.
#[derive(Clone, Copy, Debug)]
pub struct SilenceLimits {
    /// After FIN both ways or RST.
    pub closed: Duration,
    /// While a SYN is unanswered.
    pub unanswered: Duration,
    /// Otherwise.
    pub idle: Duration,
}

impl From<&Timeouts> for SilenceLimits {
    fn from(timeouts: &Timeouts) -> Self {
        Self { closed: timeouts.closed, unanswered: timeouts.unanswered, idle: timeouts.idle }
    }
}

impl SilenceLimits {
    /// How long a flow with these facts may be silent: what the program's `patience` says in ticks.
    pub(crate) fn of(&self, facts: &Facts) -> Duration {
        let open = if facts.unanswered() { self.unanswered.min(self.idle) } else { self.idle };
        if facts.closed() { self.closed.min(open) } else { open }
    }
}
