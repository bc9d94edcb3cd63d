//! Thresholds of the terms of a rule, and other ones for some subjects.

use crate::network::AddressSet;

/// The thresholds of a term. A ratio's are in [`Thresholds::PARTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// This much holds.
    pub at_least: u64,
    /// Below this a firing alert may end; at most `at_least`, at least 1.
    pub resolve_below: u64,
}

impl Thresholds {
    /// What a ratio of one is.
    pub const PARTS: u64 = 1_000_000;
}

/// Thresholds for some subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThresholdOverride {
    /// For whom: the client; the server, where the rule groups by destination.
    pub of: AddressSet,
    /// One for each term.
    pub thresholds: Vec<Thresholds>,
}
