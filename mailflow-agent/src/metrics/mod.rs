//! Metrics page: a pure function of the state that it is given.
//!
//! This crate writes the families by service and by source, because they have many series. The `prometheus`
//! crate keeps the few metrics of the agent itself. docs/integrate/metrics.md lists all of them.

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
    engine_stats::EngineStats,
    page::MetricsPage,
    traffic_counters::{LabelContext, SeriesLimits, SourceTotals, TrafficCounters},
};
pub use agent::{AgentMetrics, LoadOutcome, ReceiverCounters};
pub use kernel::{KernelSnapshot, PacketsAt, ProgramAttachment, Utilisation, WatchedEntry};
