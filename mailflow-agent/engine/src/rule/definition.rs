//! Rules as a whole: whose flows they take together, over which time, and how what they look at goes together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    filter::Match,
    severity::Severity,
    term::{Term, Window},
    thresholds::ThresholdOverride,
};
use crate::network::AddressSet;

/// A rule: which flows count, and what of them is too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Raised by its author when its meaning changes.
    pub version: u32,
    /// How loud it speaks.
    pub severity: Severity,
    /// Which flows count.
    pub matching: Match,
    /// Whose flows are taken together.
    pub group_by: GroupBy,
    /// The window of the terms that name none of their own.
    pub window: Window,
    /// What is looked at, in the order of the condition.
    pub terms: Vec<Term>,
    /// How the terms go together.
    pub condition: Condition,
    /// Other thresholds for some; the first whose set holds the subject decides.
    pub threshold_overrides: Vec<ThresholdOverride>,
    /// Flows that are known and put aside: the first that holds one decides.
    pub allow: Vec<AllowEntry>,
    /// A firing alert ends once the condition has not held, with each term's `resolve_below` for
    /// `at_least`, for this long.
    pub resolve_after: Duration,
    /// A firing alert is repeated this often.
    pub repeat_interval: Duration,
    /// Labels copied to its alerts.
    pub labels: BTreeMap<String, String>,
    /// MITRE ATT&CK technique ids.
    pub attack: Vec<String>,
}

impl Rule {
    /// How long after the last record an alert of it may still have something to say: the longest window and
    /// the time until it is resolved.
    pub fn max_alert_delay(&self) -> Duration {
        let longest = self.terms.iter().map(|term| term.window.length).max().unwrap_or_default();
        longest + self.resolve_after
    }
}

/// Whose flows a rule takes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupBy {
    /// The client, IPv6 by prefix.
    Source,
    /// The client, IPv6 by prefix, and the server's address.
    SourceAndDestination,
    /// The server's address.
    Destination,
    /// The group of the internal network that the client is in; a client without one is in the group "".
    Group,
}

/// How terms go together; terms by their place in [`Rule::terms`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The term holds.
    Term(usize),
    /// At least one of them holds.
    Any(Vec<Condition>),
    /// Each of them holds.
    All(Vec<Condition>),
}

/// Flows that are known: they are counted apart, and alerts about them are suppressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowEntry {
    /// The client.
    pub source: AddressSet,
    /// The server.
    pub destination: AddressSet,
    /// Why, in words.
    pub reason: Arc<str>,
    /// Flows from then on are not known any more, nanoseconds since 1970.
    pub until: Option<i128>,
}
