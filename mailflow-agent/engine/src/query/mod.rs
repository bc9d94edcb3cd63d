//! Read-only queries of the engine's state.

pub mod explain;
pub mod window_scan;
