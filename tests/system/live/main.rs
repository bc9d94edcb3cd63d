//! Running agent on a gateway with source NAT, with real software on both sides.
//!
//! These tests create network namespaces and need root.

mailflow_test_support::needs_root!();

mod counts;
mod errors;
mod interfaces;
mod lists;
mod polls;
mod ports;
mod queue;
mod rule;
mod stop;
mod wire;
mod zones;
