//! What outlives the agent: whatever ends it, every packet is counted once and every incident told once.

#[path = "life/gateway.rs"]
#[allow(dead_code, reason = "shared with the suite `outputs`")]
mod gateway;
#[path = "life/restart.rs"]
mod restart;
#[path = "life/service.rs"]
mod service;
#[path = "life/storm.rs"]
mod storm;
