//! Where the engine's events go: flow log, alerts, metrics. Sinks consume and never call back.
//!
//! A sink is a queue and a thread ([`worker`]) around a transport: lines to a file, or something to talk to.

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
pub mod profile;
mod protocol;
mod remote;
pub(crate) mod renew;
pub(crate) mod router;
pub(crate) mod set;
mod single;
mod socket;
pub(crate) mod summary;
mod syslog;
mod webhook;
pub mod worker;

pub use self::events::{AlertEvent, FlowEvent};
/// The client of receivers without its connections, for the fuzz target of their answers.
#[doc(hidden)]
pub use self::http_client::{Answer, post_over};
