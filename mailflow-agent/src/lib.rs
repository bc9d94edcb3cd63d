//! mailflow's agent: reads the kernel's flow counters, evaluates the rules on them, and sends alerts, flow
//! records and metrics.
//!
//! Data flows one way: [`mailflow_kernel`] (the only user of aya) -> [`mailflow_engine`] (no clock, no I/O)
//! -> [`outputs`]. [`agent`] wires them together, [`cli`] has the commands.

#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod http;
pub mod metrics;
pub mod offline;
pub mod outputs;
pub mod recovery;
pub mod status;
pub mod util;
