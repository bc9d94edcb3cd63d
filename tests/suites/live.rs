//! Running agent on a gateway with source NAT, with real software on both sides.
//!
//! These tests create network namespaces and need root.

#[path = "live/counts.rs"]
mod counts;
#[path = "live/errors.rs"]
mod errors;
#[path = "live/interfaces.rs"]
mod interfaces;
#[path = "live/lists.rs"]
mod lists;
#[path = "live/polls.rs"]
mod polls;
#[path = "live/ports.rs"]
mod ports;
#[path = "live/queue.rs"]
mod queue;
#[path = "live/rule.rs"]
mod rule;
#[path = "live/stop.rs"]
mod stop;
#[path = "live/wire.rs"]
mod wire;
#[path = "live/zones.rs"]
mod zones;
