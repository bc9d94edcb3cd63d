//! Settings of the engine: validated, with all defaults applied.

pub use crate::{
    flow::{
        class::FlowClass,
        quantity::Quantity,
        service::{Service, Services},
        timeout::Timeouts,
    },
    rule::{
        AllowEntry, Bound, Condition, Endpoint, GroupBy, Hours, Layer, Match, Measure, Rule, RuleLimits,
        SizeKind, SizeTest, Term, ThresholdOverride, Thresholds, Transport, Window, WindowKind, signature_id,
        unit,
    },
};
use crate::{network::Networks, time::WallClockOffset};

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Timeouts that end flows.
    pub timeouts: Timeouts,
    /// Service of each watched port.
    pub services: Services,
    /// Internal networks.
    pub internal: Networks,
    /// Prefix length by which IPv6 clients are grouped into sources.
    pub v6_source_prefix: u8,
    /// Offset of the packet clock from the wall clock, for rules with hours and for the ends of allow-list entries.
    pub clock_offset: WallClockOffset,
    /// Enabled rules.
    pub rules: Vec<Rule>,
    /// Limits of the rules' state and of their alerts.
    pub limits: RuleLimits,
}
