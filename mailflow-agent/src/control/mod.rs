//! Control socket: requests of operators and scripts to a running agent, and its replies.
//!
//! Requests and replies are one JSON object a line, on a Unix socket (docs/operate/control.md). Its mode 0660 is the
//! access control. The control task answers read-only requests concurrently with the poll loop. Other
//! requests go to the poll loop, which answers them between two polls.

mod client;
mod explain;
mod protocol;
mod server;
mod status;
mod top;

pub use self::{
    client::{CallError, Client},
    explain::{AllowSuggestion, FlowExplanation, RuleExplanation, SourceExplanation, TermExplanation},
    protocol::{Reply, Request},
    server::{
        CommandSenders, ControlBindError, ControlCommand, ControlListener, StatusProvider, bind, serve,
        serve_connection,
    },
    status::{
        Conservation, DirectionCounts, Durability, FiringAlert, HelperStatus, ListStatus, OutputStatus,
        ProgramStatus, RuleStatus, Status, StatusNumber, TableUsage, UnlistedClientsStatus,
        WatchedEntryStatus, WatchedInterface,
    },
    top::{TopSnapshot, TopSource},
};
