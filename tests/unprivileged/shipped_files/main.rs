//! Files for an operator's other tools: each is tested with the tool that it is for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "../../common/shipped_files.rs"]
#[allow(dead_code, reason = "shared with the suite `monitoring`")]
mod files;
mod grafana;
mod prometheus;
mod unit;
