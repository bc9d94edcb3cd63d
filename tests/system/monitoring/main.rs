//! A real Prometheus and the shipped dashboard on real agents.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mailflow_test_support::needs_root!();

#[path = "../../common/shipped_files.rs"]
#[allow(dead_code, reason = "shared with the suite `shipped_files`")]
mod files;
mod fleet;
