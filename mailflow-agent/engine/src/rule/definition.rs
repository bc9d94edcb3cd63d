//! Definition of a rule: match, grouping, terms, condition and alert settings.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    filter::Match,
    severity::Severity,
    term::{Term, Window},
    thresholds::ThresholdOverride,
};
use crate::network::AddressSet;

/// Rule: matching flows, and the condition on their windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique name.
    pub name: Arc<str>,
    /// Version, incremented by the author when the meaning changes.
    pub version: u32,
    /// Severity of its alerts.
    pub severity: Severity,
    /// Match of the flows that the rule counts.
    pub matching: Match,
    /// Group key by which flows are counted.
    pub group_by: GroupBy,
    /// Default window of the terms.
    pub window: Window,
    /// Terms, in the order of the condition.
    pub terms: Vec<Term>,
    /// Condition over the terms.
    pub condition: Condition,
    /// Thresholds for some groups. The first override whose set contains the address applies.
    pub threshold_overrides: Vec<ThresholdOverride>,
    /// Allow-list of the rule. The first entry that applies decides.
    pub allow: Vec<AllowEntry>,
    /// Duration for which the condition must not hold before a firing alert resolves. Here each term has its
    /// threshold `resolve_below` instead of `at_least`.
    pub resolve_after: Duration,
    /// Interval of the repeats of a firing alert.
    pub repeat_interval: Duration,
    /// Labels that alerts carry.
    pub labels: BTreeMap<String, String>,
    /// MITRE ATT&CK technique ids.
    pub attack: Vec<String>,
}

impl Rule {
    /// Returns the longest time between the last record and the resolve of an alert: the longest window and
    /// `resolve_after`.
    pub fn max_alert_delay(&self) -> Duration {
        let longest = self.terms.iter().map(|term| term.window.length).max().unwrap_or_default();
        longest + self.resolve_after
    }
}

/// Group key of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum GroupBy {
    /// Client; for IPv6, its prefix.
    Source,
    /// Client (for IPv6, its prefix) and server address.
    SourceAndDestination,
    /// Server address.
    Destination,
    /// Group of the client's internal network; "" for a client without one.
    Group,
}

/// Condition over terms, which are given as indices into [`Rule::terms`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The term holds.
    Term(usize),
    /// At least one part holds.
    Any(Vec<Condition>),
    /// Every part holds.
    All(Vec<Condition>),
}

/// Allow-list entry. Its flows are counted separately, and alerts about them are suppressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowEntry {
    /// Client.
    pub source: AddressSet,
    /// Server.
    pub destination: AddressSet,
    /// Reason, as text.
    pub reason: Arc<str>,
    /// Expiry in nanoseconds since 1970. The entry does not apply to flows from then on.
    pub until: Option<i128>,
}
