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

/// State of an alert at the time of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AlertState {
    /// The condition holds. Sent at the start of the incident, and then every repeat interval.
    Firing,
    /// The value stayed below the resolve threshold for long enough.
    Resolved,
}

impl AlertState {
    /// Returns the name in alerts.
    pub const fn name(self) -> &'static str {
        match self {
            AlertState::Firing => "firing",
            AlertState::Resolved => "resolved",
        }
    }
}

/// Totals of the contributing flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTotals {
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
    /// Estimated messages.
    pub messages: u64,
}

/// Alert event, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Version of the rule.
    pub rule_version: u32,
    /// Stable identity of rule and group, 16 hexadecimal digits.
    pub fingerprint: String,
    /// Firing or resolved.
    pub state: AlertState,
    /// Severity of the rule.
    pub severity: Severity,
    /// Time of this event: the deciding record's event time at the start, the engine's time for repeats and for the
    /// resolve.
    pub time: Time,
    /// Start of the incident: event time of the deciding flow.
    pub starts_at: Time,
    /// `starts_at` in wall-clock time, in nanoseconds since 1970. Fixed at the start of the incident: repeats, the
    /// resolve and a restart keep the value, also if the wall clock is adjusted.
    pub starts_at_unix: i128,
    /// End of the incident, if it is resolved.
    pub ends_at: Option<Time>,
    /// Key of the group.
    pub group_key: GroupKey,
    /// Client of the group key, or else of the newest contributing flow.
    pub source: Option<Source>,
    /// Line of the internal list that makes the client internal, as written.
    pub matched_network: Option<String>,
    /// Group of that line.
    pub group: Option<String>,
    /// Role of that line.
    pub role: Option<AssetRole>,
    /// Reason of the suppression, if an allow-list lists all flows of the alert. Outputs do not notify suppressed
    /// alerts.
    pub suppressed: Option<Arc<str>>,
    /// Deciding term, as in `terms`.
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
    /// Destinations with the number of contributing flows to each, highest number first, at most ten.
    pub destinations: Vec<(IpAddr, u64)>,
    /// Totals of the contributing flows.
    pub sums: FlowTotals,
    /// Newest contributing flows, at most twenty, oldest first.
    pub flows: Vec<Arc<FlowRecord>>,
    /// True if the counters of all contributing flows are complete: none began before it was watched, and no packet
    /// of the group was counted as overflow.
    pub complete: bool,
    /// True if evidence was overwritten, so that `flows` has fewer flows than contributed and could be shown.
    pub is_truncated: bool,
    /// Hint that the source behaves like a mail relay.
    pub relay: Option<RelayHint>,
}

impl Alert {
    /// Returns true if all flows carry this field, so that their totals are meaningful.
    pub fn tells(&self, input: RecordFields) -> bool {
        self.flows.iter().all(|record| record.fields.contains(input))
    }
}

/// Source that behaves like a mail relay: it delivers much mail to many servers, and most of its sessions deliver.
/// Displayed as `30 of 31 sessions delivered mail, to 12 servers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayHint {
    /// Connection attempts of the source, among the recent records.
    pub attempts: u64,
    /// Attempts that delivered mail.
    pub delivered: u64,
    /// Servers that accepted mail.
    pub servers: u64,
}

impl std::fmt::Display for RelayHint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { attempts, delivered, servers } = self;
        write!(f, "{delivered} of {attempts} sessions delivered mail, to {servers} servers")
    }
}
