//! What hangs on an interface beside the agent's programs, and what becomes of the interface while the agent
//! runs.
//!
//! These tests make network namespaces and so need root.

#[path = "attach/absent.rs"]
mod absent;
#[path = "attach/beside.rs"]
mod beside;
#[path = "attach/chain.rs"]
mod chain;
#[path = "attach/inside.rs"]
mod inside;
#[path = "attach/life.rs"]
mod life;
#[path = "attach/lookout.rs"]
mod lookout;
#[path = "attach/mirror.rs"]
mod mirror;
#[path = "attach/watched.rs"]
mod watched;
