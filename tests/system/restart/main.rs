//! Persistence: however the agent ends, every packet is counted once and every alert event is delivered once.

mailflow_test_support::needs_root!();

mod full_disk;
#[allow(dead_code, reason = "shared with the suite `outputs`")]
mod gateway;
mod limits;
mod removed;
mod restart;
mod service;
mod stress;
