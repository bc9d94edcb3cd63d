//! Evaluation of rules over records: event time, the windows of every group, the incidents.

pub(crate) mod contribution;
pub(crate) mod evaluator;
pub mod group_key;
mod group_shard;
pub(crate) mod group_state;
pub(crate) mod group_table;
mod ingest;
pub mod pending;
mod reload;
mod rule_mask;
pub(crate) mod rule_state;
pub mod stats;
pub(crate) mod suppression;
pub(crate) mod timing_wheel;
pub mod window;

pub use self::group_key::GroupKey;
