//! What hangs on an interface beside the agent's programs, and what becomes of the interface while the agent
//! runs.
//!
//! These tests make network namespaces and so need root.

mailflow_test_support::needs_root!();

mod absent;
mod chain;
mod coexistence;
mod helper;
mod inside;
mod lifecycle;
mod mirror;
mod watched;
