//! Evaluation of rules over records.

pub mod group_key;
pub(crate) mod window;
