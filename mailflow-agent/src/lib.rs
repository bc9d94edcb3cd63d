//! mailflow's agent: reads the kernel's flow counters, joins them with the internal networks,
//! evaluates the rules and tells people.
//!
//! Data goes one way: [`mailflow_kernel`] (the only user of aya) -> [`mailflow_engine`] (no clock, no I/O) -> [`sink`].
//! [`agent`] is the only wiring, [`commands`] what a person does with it.

pub mod agent;
pub mod capture;
pub mod cli;

pub mod commands;
pub mod config;
pub mod control;
pub mod crowd;
pub mod disk;
pub mod doctor;
pub mod fault;
pub mod flowlog;
pub mod http;

pub mod packed;

pub mod signal;
pub mod sink;
pub mod sockets;
pub mod state;
pub mod terminal;
