//! Other programs at the agent's hooks, and changes of interfaces while the agent runs.
//!
//! These tests create network namespaces and need root.

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
