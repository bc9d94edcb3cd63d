//! The package and the Ansible role on booted hosts, and ClickHouse queries: tests that need other tools and
//! take minutes.
//!
//! `cargo xtask test --delivery` builds the package and runs these tests; `MAILFLOW_PACKAGE` is its path.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "install/ansible.rs"]
mod ansible;
#[path = "install/clickhouse.rs"]
mod clickhouse;
#[path = "install/package.rs"]
mod package;
#[path = "install/upgrade.rs"]
mod upgrade;
