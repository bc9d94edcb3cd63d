//! Sections of a configuration without a module of their own.

pub(crate) mod flow_table;
pub(crate) mod interfaces;
pub(crate) mod state;
