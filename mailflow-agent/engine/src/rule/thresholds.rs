//! Thresholds of a rule's terms, and overrides for some groups.

use crate::network::AddressSet;

/// Fire and resolve threshold of a term; for a ratio in [`Thresholds::PARTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Value from which on the term holds.
    pub at_least: u64,
    /// Value below which a firing alert may resolve; at most `at_least`, at least 1.
    pub resolve_below: u64,
}

impl Thresholds {
    /// Value of a ratio of one.
    pub const PARTS: u64 = 1_000_000;
}

/// Thresholds for some groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThresholdOverride {
    /// Addresses that the override applies to: clients, or servers if the rule groups by destination.
    pub of: AddressSet,
    /// Thresholds of each term.
    pub thresholds: Vec<Thresholds>,
}
