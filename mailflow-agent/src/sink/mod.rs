//! Where the engine's events go: flow log, alerts, metrics. Sinks consume and never call back.
//!
//! A sink is a queue and a thread ([`worker`]) around a transport: lines to a file, or something to talk to.

pub mod alert_log;
mod alertmanager;
pub mod community_id;
pub mod dead_letters;
mod ecs;
pub mod eve;
pub mod flow_log;
pub mod gateway;
mod ipfix;
mod journal;
pub mod lines;
mod ocsf;
pub mod open;
mod post;
pub mod profile;
mod protocol;
mod remote;
mod single;
mod socket;
mod syslog;
mod webhook;
mod words;
pub mod worker;

use std::sync::Arc;

/// The client of receivers without its connections, for the fuzz target of their answers.
#[doc(hidden)]
pub use self::post::{Answer, post_over};

use mailflow_engine::{event::Alert, flow::FlowRecord, time::Epoch};

/// An alert event, and where its times lie on the wall clock.
pub type AlertEvent = (Arc<Alert>, Epoch);

/// A flow record, and where its times lie on the wall clock.
pub type FlowEvent = (Arc<FlowRecord>, Epoch);
