//! Alert events.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use mailflow_common::App;
use serde::{Deserialize, Serialize};

use crate::{
    eval::{
        group_key::{GroupKey, Source},
        window::value::TermValue,
    },
    flow::{FlowRecord, delta::CounterDelta, fields::RecordFields},
    network::AssetRole,
    rule::Severity,
    time::Time,
};

/// State of an alert at the moment of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AlertState {
    /// The condition holds; sent once when it begins and then every repeat interval.
    Firing,
    /// The value stayed below the resolve threshold long enough.
    Resolved,
}

impl AlertState {
    /// The name in alerts.
    pub const fn name(self) -> &'static str {
        match self {
            AlertState::Firing => "firing",
            AlertState::Resolved => "resolved",
        }
    }
}

/// Bytes and packets of both directions over the contributing flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTotals {
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
    /// Estimated messages.
    pub messages: u64,
}

/// An alert event: everything a person needs to believe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Its version.
    pub rule_version: u32,
    /// Stable identity of rule and subject, 16 hexadecimal digits.
    pub fingerprint: String,
    /// Firing or resolved.
    pub state: AlertState,
    /// From the rule.
    pub severity: Severity,
    /// Moment of this event: for firing the deciding record's event time, for repeats and resolved
    /// the engine's now.
    pub time: Time,
    /// When the condition began to hold: event time of the deciding flow.
    pub starts_at: Time,
    /// `starts_at` on the wall clock, in nanoseconds since 1970. Fixed when the alert begins: repeats, the
    /// resolve and a restart keep this value, also where the wall clock was set meanwhile.
    pub starts_at_unix: i128,
    /// When it ended; only when resolved.
    pub ends_at: Option<Time>,
    /// Whom it is about.
    pub group_key: GroupKey,
    /// A client of it: the subject's, or that of the newest contributing flow.
    pub source: Option<Source>,
    /// The line of the internal list that makes the client internal, as written.
    pub matched_network: Option<String>,
    /// The group of that line, where it has one.
    pub group: Option<String>,
    /// The role of that line, where it has one.
    pub role: Option<AssetRole>,
    /// Why it is only shown and not told to anybody: all of its flows are on an allow-list.
    pub suppressed: Option<Arc<str>>,
    /// The term that decided, as `terms` has it.
    pub deciding_term: TermValue,
    /// Every term of the rule's condition.
    pub terms: Vec<TermValue>,
    /// Labels of the rule.
    pub labels: BTreeMap<String, String>,
    /// MITRE ATT&CK technique ids.
    pub attack: Vec<String>,
    /// First packet of the contributing flows.
    pub first: Time,
    /// Last packet of the contributing flows.
    pub last: Time,
    /// Server ports of the contributing flows, ascending.
    pub ports: Vec<u16>,
    /// Applications of the contributing flows.
    #[serde(with = "crate::checkpoint::codec::apps")]
    pub apps: Vec<App>,
    /// Destinations with the number of contributing flows to each, most first, at most ten.
    pub destinations: Vec<(IpAddr, u64)>,
    /// Totals over the contributing flows.
    pub sums: FlowTotals,
    /// The newest contributing flows, at most twenty, oldest first.
    #[serde(with = "crate::checkpoint::codec::records")]
    pub flows: Vec<Arc<FlowRecord>>,
    /// True if counting was complete for all contributing flows: none began before it was watched, and no
    /// packet of the subject found the flow table full.
    pub complete: bool,
    /// True if contributing flows, within the most that are shown, had to make room for others.
    pub is_truncated: bool,
    /// What speaks for it, where its source behaves like one that is meant to send mail.
    pub relay: Option<RelayHint>,
}

impl Alert {
    /// Returns true if all of its flows have this input, so that their sums mean something.
    pub fn tells(&self, input: RecordFields) -> bool {
        self.flows.iter().all(|record| record.fields.contains(input))
    }
}

/// A source that behaves like a relay: it delivers much mail to many servers, and most of it is taken. In words:
/// `30 of 31 sessions delivered mail, to 12 servers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayHint {
    /// Connections that it began, of the newest flows that are remembered.
    pub attempts: u64,
    /// Those of them in which mail was accepted.
    pub delivered: u64,
    /// The servers that accepted it.
    pub servers: u64,
}

impl std::fmt::Display for RelayHint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { attempts, delivered, servers } = self;
        write!(f, "{delivered} of {attempts} sessions delivered mail, to {servers} servers")
    }
}
