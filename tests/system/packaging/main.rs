//! The package and the Ansible role on booted hosts, and ClickHouse queries: tests that need other tools and
//! take minutes.
//!
//! `cargo xtask test packaging` builds the package and runs these tests; `MAILFLOW_PACKAGE` is its path.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mailflow_test_support::needs_root!();

mod ansible;
mod clickhouse;
mod package;
mod upgrade;
