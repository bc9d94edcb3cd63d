//! Files for an operator's other tools: each is tested with the tool that it is for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "delivery/files.rs"]
mod files;
#[path = "delivery/fleet.rs"]
mod fleet;
#[path = "delivery/grafana.rs"]
mod grafana;
#[path = "delivery/prometheus.rs"]
mod prometheus;
#[path = "delivery/unit.rs"]
mod unit;
