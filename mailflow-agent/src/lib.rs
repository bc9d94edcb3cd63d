//! mailflow's agent: reads the kernel's flow counters, joins them with the internal networks,
//! evaluates the rules and tells people.
//!
//! Data goes one way: [`mailflow_kernel`] (the only user of aya) -> [`mailflow_engine`] (no clock, no I/O) -> [`outputs`].
//! [`agent`] is the only wiring, [`cli`] what a person does with it.

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
