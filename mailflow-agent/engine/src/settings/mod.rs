//! What the engine is told: validated, nothing left to decide.

mod matching;
mod rule;
mod signature;
mod term;

use std::{collections::BTreeMap, time::Duration};

use mailflow_common::Family;

pub use self::{
    matching::{Bound, Counter, Hours, Layer, Match, SizeKind, SizeTest, Transport},
    rule::{Allow, Condition, GroupBy, Rule, Thresholds, Window, WindowKind},
    signature::signature_id,
    term::{End, Kind, Level, Measure, Quantity, Term, unit},
};
use crate::{lane, network::Networks, time::Epoch};

/// Everything the engine needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When flows end.
    pub timeouts: Timeouts,
    /// What is watched on which port.
    pub services: Services,
    /// The internal networks.
    pub internal: Networks,
    /// Prefix length by which IPv6 clients are grouped into sources.
    pub v6_source_prefix: u8,
    /// Where the packet clock lies on the wall clock: rules may name hours, and allow-lists expire.
    pub epoch: Epoch,
    /// The rules, enabled ones only.
    pub rules: Vec<Rule>,
    /// What they may hold and tell.
    pub limits: RuleLimits,
}

/// What the rules may hold and tell, however many sources are made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleLimits {
    /// Most subjects that one rule remembers; of flows on an allow-list as many again.
    pub subjects: usize,
    /// Most bytes of what one rule remembers of them.
    pub memory: usize,
    /// New alerts of one rule in a minute. Those beyond are told together.
    pub alerts_per_minute: u32,
    /// Sources that began a connection in a minute and completed none, from which on they are named as a flood.
    pub flood_sources: u32,
}

impl RuleLimits {
    /// Name of the alert about a flood, which no rule may have.
    pub const FLOOD_ALERT: &'static str = "spoofed-sources";

    /// The bounds of a rule's table, and none else: what was logged is told alert by alert.
    pub const WIDEST: Self = Self {
        subjects: lane::MOST,
        memory: usize::MAX,
        alerts_per_minute: u32::MAX,
        flood_sources: u32::MAX,
    };
}

impl Default for RuleLimits {
    fn default() -> Self {
        Self::WIDEST
    }
}

/// When a flow's record is made (RFC 5470's active and idle timeouts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// After FIN both ways or RST, this long without a packet.
    pub closed: Duration,
    /// This long without a packet.
    pub idle: Duration,
    /// The same for a SYN nobody answered.
    pub unanswered: Duration,
    /// A living flow's record is made each time this much has passed.
    pub active: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            closed: Duration::from_secs(5),
            idle: Duration::from_secs(300),
            unanswered: Duration::from_secs(127),
            active: Duration::from_secs(300),
        }
    }
}

/// A service: the name under which its ports are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// Mail between servers, port 25.
    Smtp,
    /// Mail submission, port 587 (RFC 6409).
    Submission,
    /// SMTP inside TLS, ports 465 (RFC 8314) and 994.
    Smtps,
    /// POP3, port 110.
    Pop3,
    /// POP3 inside TLS, port 995.
    Pop3s,
    /// IMAP, port 143.
    Imap,
    /// IMAP inside TLS, port 993.
    Imaps,
}

impl Service {
    /// Every service.
    pub const ALL: [Service; 7] = [
        Service::Smtp,
        Service::Submission,
        Service::Smtps,
        Service::Pop3,
        Service::Pop3s,
        Service::Imap,
        Service::Imaps,
    ];

    /// The name in configuration and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Smtp => "smtp",
            Service::Submission => "submission",
            Service::Smtps => "smtps",
            Service::Pop3 => "pop3",
            Service::Pop3s => "pop3s",
            Service::Imap => "imap",
            Service::Imaps => "imaps",
        }
    }

    /// The family that TLS from the first byte belongs to on its ports.
    pub const fn family(self) -> Family {
        match self {
            Service::Smtp | Service::Submission | Service::Smtps => Family::Smtp,
            Service::Pop3 | Service::Pop3s => Family::Pop3,
            Service::Imap | Service::Imaps => Family::Imap,
        }
    }
}

/// The watched ports.
pub type Services = BTreeMap<u16, Service>;
