//! Outputs for flow records and alerts. Sinks consume events and never call back.
//!
//! A sink is a queue and a thread ([`worker`]) around a transport to a file or a receiver.

mod alertmanager;
pub mod community_id;
pub mod dead_letters;
mod ecs;
pub mod eve;
mod events;
pub mod factory;
pub mod gateway;
pub(crate) mod http_client;
mod ipfix;
pub(crate) mod journald;
pub mod jsonl_file;
mod ocsf;
pub(crate) mod pending_delivery;
pub(crate) mod policy;
pub mod profile;
mod protocol;
mod remote_sender;
pub(crate) mod replace;
pub(crate) mod router;
mod sequential;
pub(crate) mod set;
mod socket;
pub(crate) mod summary;
mod syslog;
mod webhook;
pub mod worker;

pub use self::events::{AlertEvent, FlowEvent};
/// HTTP client over an existing connection, for the fuzz target of responses.
#[doc(hidden)]
pub use self::http_client::{ReceiverResponse, post_over};
