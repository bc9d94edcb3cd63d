//! Replies to `explain` and `suggest`.

use serde::{Deserialize, Serialize};

/// Explanation of a source: its rule values and its newest flows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceExplanation {
    /// Entry of the internal networks that contains the source.
    pub matched_network: Option<String>,
    /// Group of the source.
    pub group: Option<String>,
    /// Values of each rule for the source.
    pub rules: Vec<RuleExplanation>,
    /// Newest flows of the source, newest first.
    pub flows: Vec<FlowExplanation>,
    /// Time of the oldest stored record of any source, in seconds since 1970.
    pub since: Option<f64>,
}

/// Values of a rule for a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleExplanation {
    /// Name of the rule.
    pub rule: String,
    /// Group key.
    pub subject: String,
    /// True if an allow-list suppresses the alerts.
    pub suppressed: bool,
    /// Start of the firing alert, in seconds since 1970.
    pub firing_since: Option<f64>,
    /// Terms of the rule's condition.
    pub terms: Vec<TermExplanation>,
}

/// Value of a term.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TermExplanation {
    /// Name of the measure.
    pub name: String,
    /// Unit of value and threshold; empty for a ratio.
    #[serde(default)]
    pub unit: String,
    /// Length of the window, in seconds.
    pub window_seconds: u64,
    /// Value; `None` if the term is not evaluable, as no record contains the required fields.
    pub value: Option<f64>,
    /// True if the value is a lower bound.
    pub at_bound: bool,
    /// Threshold.
    pub threshold: f64,
}

/// Flow, with the verdict of each rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowExplanation {
    /// Time of its last packet, in seconds since 1970.
    pub time: f64,
    /// Client and its port.
    pub client: String,
    /// Server and its port.
    pub server: String,
    /// Application protocol.
    pub app_proto: String,
    /// Reason of the record.
    pub reason: String,
    /// Packets and IP bytes from client to server; `None` if the flow log lacks them.
    pub up: (Option<u64>, Option<u64>),
    /// Packets and IP bytes from server to client; `None` if the flow log lacks them.
    pub down: (Option<u64>, Option<u64>),
    /// Estimated messages; `None` if the flow log lacks them.
    pub messages: Option<u32>,
    /// Rules with the reason why the flow does not count; `None` if it counts.
    pub verdicts: Vec<(String, Option<String>)>,
}

/// Suggested allow-list entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AllowSuggestion {
    /// Client; `None` for any internal client.
    pub source: Option<String>,
    /// Server; `None` for any server.
    pub destination: Option<String>,
    /// Reason of the suggestion.
    pub because: String,
}
