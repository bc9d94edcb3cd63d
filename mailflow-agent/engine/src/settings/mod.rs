//! What the engine is told: validated, nothing left to decide.

mod matching;
mod rule;
mod signature;
mod term;

pub use self::{
    matching::{Bound, Counter, Hours, Layer, Match, SizeKind, SizeTest, Transport},
    rule::{Allow, Condition, GroupBy, Rule, Thresholds, Window, WindowKind},
    signature::signature_id,
    term::{End, Level, Measure, Term, unit},
};
pub use crate::flow::{
    class::Kind,
    quantity::Quantity,
    service::{Service, Services},
    timeout::Timeouts,
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
