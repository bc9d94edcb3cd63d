//! Outputs of the agent: lines, metrics, and the HTTP server that is scraped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "../../common/fixture.rs"]
#[allow(dead_code, reason = "shared with the suite `outputs`")]
mod fixture;
mod http;
mod page;
mod traffic_counters;
mod web;
