//! Rules: definitions as configured, their match against flows, and the compiled form.

pub mod compiled;
pub mod definition;
pub mod filter;
pub mod limits;
pub mod match_flow;
mod pair_index;
mod required_fields;
pub mod severity;
pub mod signature;
pub mod size_test;
pub mod term;
pub mod thresholds;

pub use self::{
    definition::{AllowEntry, Condition, GroupBy, Rule},
    filter::{Bound, Hours, Layer, Match, SizeKind, SizeTest, Transport},
    limits::RuleLimits,
    match_flow::Clause,
    severity::Severity,
    signature::signature_id,
    term::{Endpoint, Measure, Term, Window, WindowKind, unit},
    thresholds::{ThresholdOverride, Thresholds},
};
