//! Persistence: however the agent ends, every packet is counted once and every alert event is delivered once.

#[path = "life/full_disk.rs"]
mod full_disk;
#[path = "life/gateway.rs"]
#[allow(dead_code, reason = "shared with the suite `outputs`")]
mod gateway;
#[path = "life/limits.rs"]
mod limits;
#[path = "life/removed.rs"]
mod removed;
#[path = "life/restart.rs"]
mod restart;
#[path = "life/service.rs"]
mod service;
#[path = "life/storm.rs"]
mod storm;
