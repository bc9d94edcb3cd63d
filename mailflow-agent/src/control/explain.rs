//! What is said of a source: `explain`, and what an allow-list might name: `suggest`.

use serde::{Deserialize, Serialize};

/// All there is to say of a source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// The line of the internal list that makes it internal.
    pub matched_network: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// What each rule holds for it.
    pub rules: Vec<HeldRule>,
    /// Its newest flows, the newest first.
    pub flows: Vec<JudgedFlow>,
    /// Seconds since 1970 of the oldest record that is remembered of anybody.
    pub since: Option<f64>,
}

/// What a rule holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldRule {
    /// The rule.
    pub rule: String,
    /// Whom it is about.
    pub subject: String,
    /// True if an allow-list puts these flows aside.
    pub suppressed: bool,
    /// Since when an alert fires, in seconds since 1970.
    pub firing_since: Option<f64>,
    /// Each term of its condition.
    pub terms: Vec<HeldTerm>,
}

/// What a term holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldTerm {
    /// What is measured.
    pub name: String,
    /// The unit of value and threshold; empty for a ratio.
    #[serde(default)]
    pub unit: String,
    /// The window in seconds.
    pub window_seconds: u64,
    /// What it holds; none where it is not evaluable, as no record told what it takes.
    pub value: Option<f64>,
    /// True if it may be more.
    pub at_bound: bool,
    /// What it takes.
    pub threshold: f64,
}

/// A flow, and what the rules say of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgedFlow {
    /// Seconds since 1970 of its last packet.
    pub time: f64,
    /// The client and its port.
    pub client: String,
    /// The server and its port.
    pub server: String,
    /// The application.
    pub app_proto: String,
    /// Why the record was made.
    pub reason: String,
    /// Packets and IP bytes up; none where the flow's log lacks them.
    pub up: (Option<u64>, Option<u64>),
    /// Packets and IP bytes down; none where the flow's log lacks them.
    pub down: (Option<u64>, Option<u64>),
    /// Estimated messages; none where the flow's log lacks them.
    pub messages: Option<u32>,
    /// Of each rule: nothing if the flow counts, or else why not.
    pub verdicts: Vec<(String, Option<String>)>,
}

/// What an allow-list might name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Suggested {
    /// The client, if it is about one.
    pub source: Option<String>,
    /// The server, if it is about one.
    pub destination: Option<String>,
    /// What speaks for it.
    pub because: String,
}
