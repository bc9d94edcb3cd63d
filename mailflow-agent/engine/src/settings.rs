//! What the engine is told: validated, nothing left to decide.

pub use crate::{
    flow::{
        class::FlowClass,
        quantity::Quantity,
        service::{Service, Services},
        timeout::Timeouts,
    },
    rule::{
        AllowEntry, Bound, Condition, Counter, Endpoint, GroupBy, Hours, Layer, Match, Measure, Rule,
        RuleLimits, SizeKind, SizeTest, Term, ThresholdOverride, Thresholds, Transport, Window, WindowKind,
        signature_id, unit,
    },
};
use crate::{network::Networks, time::WallClockOffset};

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
    pub clock_offset: WallClockOffset,
    /// The rules, enabled ones only.
    pub rules: Vec<Rule>,
    /// What they may hold and tell.
    pub limits: RuleLimits,
}
