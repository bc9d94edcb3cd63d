//! Control socket and reload: requests to a running agent, and changes of its configuration.

mailflow_test_support::needs_root!();

#[path = "../attach/watched.rs"]
#[allow(dead_code)]
mod watched;

mod queries;
mod reload;
