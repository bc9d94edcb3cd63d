//! Questions about the state of the engine, which change nothing.

pub mod explain;
pub mod window_scan;
