//! The control socket: what people and scripts ask of a running agent, and its answers.
//!
//! One JSON object a line, each way, on a Unix socket (docs/control.md). Who may open the socket may ask:
//! its mode is 0660. What only shows is answered beside the poll loop; what changes something is handed to
//! that loop, which answers between two polls.

mod client;
mod explain;
mod server;
mod status;
mod top;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::{
    client::{CallError, Client},
    explain::{Explained, HeldRule, HeldTerm, JudgedFlow, Suggested},
    server::{BindError, Listener, Order, Orders, State, attend, bind, serve},
    status::{
        Conservation, Durability, Fill, Firing, FiringAlert, ListStatus, Lookout, Number, Place, RuleStatus,
        Sink, Status, Unlisted, Watched, WatchedInterface, Ways,
    },
    top::{Row, Top},
};

/// Longest line that is taken, in bytes.
const LINE: usize = 64 * 1024;

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
