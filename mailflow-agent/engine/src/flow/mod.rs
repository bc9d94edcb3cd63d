//! Flows: records, deltas between polls, timeouts, and the state of live flows between polls.

pub(crate) mod class;
mod compact_table;
pub(crate) mod delta;
pub mod fields;
pub(crate) mod fingerprint;
pub mod overflow;
mod packed_counters;
pub(crate) mod phase;
pub(crate) mod quantity;
pub(crate) mod recent_records;
mod record;
pub(crate) mod service;
pub(crate) mod table;
pub(crate) mod timeout;

pub use self::record::{DirectionStats, EvictOutcome, Flow, FlowRecord, RecordReason, SupersededFlow};
pub use self::{fields::RecordFields, overflow::SourceOverflow};
