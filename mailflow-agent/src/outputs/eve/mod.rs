//! Events as EVE-compatible JSON lines.

pub mod alert;
pub mod common;
pub mod flow;
