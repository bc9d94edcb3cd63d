//! Requests and replies of the control socket.

use super::{
    explain::{Explained, Suggested},
    status::Status,
    top::Top,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Longest line that is taken, in bytes.
pub(super) const LINE: usize = 64 * 1024;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the agent is.
    Status,
    /// What its sources have sent.
    Top,
    /// To read the configuration again.
    Reload,
    /// What there is to say of a source.
    Explain {
        /// The source.
        source: IpAddr,
        /// Most flows to tell of.
        flows: usize,
    },
    /// What an allow-list might name.
    Suggest,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Top`].
    Top(Top),
    /// To [`Request::Reload`]: the configuration is in force, with what changed, in words.
    Reloaded(Vec<String>),
    /// To [`Request::Explain`].
    Explained(Box<Explained>),
    /// To [`Request::Suggest`].
    Suggested(Vec<Suggested>),
    /// What was asked is refused, with the reasons, in words.
    Refused(Vec<String>),
}
