//! The metrics page: a pure function of what the agent's parts handed over.
//!
//! Families by service and by source are streamed as text by this crate's own writer, as their
//! labels are many; the agent's own few are kept by the `prometheus` crate. docs/integrate/metrics.md lists all.

mod agent;
mod alerts;
pub(crate) mod engine_stats;
mod kernel;
mod page;
pub(crate) mod rows;
mod sources;
mod text;
pub(crate) mod traffic_counters;
mod windows;

pub use self::{
    engine_stats::Memory,
    page::Page,
    traffic_counters::{Ledger, Limits, Places, SourceSums},
};
pub use agent::{Agent, Load, ReceiverCounters};
pub use kernel::{Attached, Fill, Holding, KernelView, WatchedEntry};
