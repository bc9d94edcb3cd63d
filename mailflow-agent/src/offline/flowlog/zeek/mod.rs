//! Zeek's conn.log, as JSON and in columns.

pub(crate) mod columns;
pub(crate) mod conn;
pub(crate) mod fields;
pub(crate) mod names;
