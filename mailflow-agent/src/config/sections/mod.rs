//! Validated sections of a configuration that have no folder of their own.

pub(crate) mod flow_table;
pub(crate) mod interfaces;
pub(crate) mod state;
