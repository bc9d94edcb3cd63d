//! The control socket: what people and scripts ask of a running agent, and its answers.
//!
//! One JSON object a line, each way, on a Unix socket (docs/operate/control.md). Who may open the socket may ask:
//! its mode is 0660. What only shows is answered beside the poll loop; what changes something is handed to
//! that loop, which answers between two polls.

mod client;
mod explain;
mod protocol;
mod server;
mod status;
mod top;

pub use self::{
    client::{CallError, Client},
    explain::{Explained, HeldRule, HeldTerm, JudgedFlow, Suggested},
    protocol::{Reply, Request},
    server::{BindError, Listener, Order, Orders, State, attend, bind, serve},
    status::{
        Conservation, Durability, Fill, Firing, FiringAlert, ListStatus, Lookout, Number, Place, RuleStatus,
        Sink, Status, Unlisted, Watched, WatchedInterface, Ways,
    },
    top::{Row, Top},
};
