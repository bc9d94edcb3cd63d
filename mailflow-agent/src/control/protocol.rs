//! Requests and replies of the control socket.

use super::{
    explain::{AllowSuggestion, SourceExplanation},
    status::Status,
    top::TopSnapshot,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Maximum size of a request line, in bytes.
pub(super) const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Status of the agent.
    Status,
    /// Traffic of the sources.
    Top,
    /// Reload of the configuration.
    Reload,
    /// Explanation of a source.
    Explain {
        /// Address of the source.
        source: IpAddr,
        /// Maximum number of flows in the reply.
        flows: usize,
    },
    /// Suggestions of allow-list entries.
    Suggest,
}

/// Reply of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Reply to [`Request::Status`].
    Status(Box<Status>),
    /// Reply to [`Request::Top`].
    Top(TopSnapshot),
    /// Reply to [`Request::Reload`]: the new configuration is in force. Contains a description of each
    /// change.
    Reloaded(Vec<String>),
    /// Reply to [`Request::Explain`].
    Explained(Box<SourceExplanation>),
    /// Reply to [`Request::Suggest`].
    Suggested(Vec<AllowSuggestion>),
    /// Refusal of a request, with the reasons.
    Refused(Vec<String>),
}
