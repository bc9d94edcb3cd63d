//! The control socket and hot reload: what a running agent is asked, and what it makes of a new configuration.

mailflow_test_support::needs_root!();

#[path = "../attach/watched.rs"]
#[allow(dead_code)]
mod watched;

mod queries;
mod reload;
