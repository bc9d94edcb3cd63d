//! The engine: from snapshots of the flow table to records and alerts.
//!
//! No clock, no I/O, no aya: time and flows come in as values, effects go out as values.

pub mod assets;
pub mod event;
pub mod flow;
pub mod settings;
pub mod time;
