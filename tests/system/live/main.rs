//! The running agent on a gateway with source NAT, real software on both sides.
//!
//! These tests make network namespaces and so need root.

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
