//! Other programs at the agent's hooks, and changes of interfaces while the agent runs.
//!
//! These tests create network namespaces and need root.

mailflow_test_support::needs_root!();

mod absent;
mod chain;
mod coexistence;
mod helper;
mod inside;
mod lifecycle;
mod mirror;
mod watched;
