//! What an operator installs beside the agent, each part run by the tool it is for.

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
