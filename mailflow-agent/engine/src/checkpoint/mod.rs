//! Checkpoints: the flow table, the state of the rules, and the serialised form of flows.

pub mod codec;
mod flows;
mod redo;
pub mod rules;

pub use self::{flows::FlowTableCheckpoint, rules::RulesCheckpoint};
