//! What outlives the agent: whatever ends it, every packet is counted once and every incident told once.

mailflow_test_support::needs_root!();

mod full_disk;
#[allow(dead_code, reason = "shared with the suite `outputs`")]
mod gateway;
mod limits;
mod removed;
mod restart;
mod service;
mod stress;
