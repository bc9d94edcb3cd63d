//! Complete metrics page.

use std::sync::Arc;

use super::{
    agent::AgentMetrics, engine_stats::EngineStats, kernel::KernelSnapshot, traffic_counters::TrafficCounters,
};
use mailflow_engine::{event::Alert, query::window_scan::WindowReport};

/// Content of the page.
#[derive(Clone, Copy, Debug)]
pub struct MetricsPage<'a> {
    /// Metrics of the agent itself.
    pub agent: &'a AgentMetrics,
    /// Counters by service and by source.
    pub traffic: &'a TrafficCounters,
    /// Current window values of the rules.
    pub windows: &'a WindowReport,
    /// Firing alerts of the engine, suppressed ones included.
    pub firing: &'a [Arc<Alert>],
    /// Occupancy of the engine, `None` before the first poll.
    pub engine: Option<&'a EngineStats>,
    /// State of the kernel program, `None` before the first poll.
    pub kernel: Option<&'a KernelSnapshot>,
}

impl MetricsPage<'_> {
    /// Appends the page in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// The `prometheus` crate found a family without samples.
    pub fn render(&self, out: &mut String) -> Result<(), prometheus::Error> {
        self.agent.render(out)?;
        self.traffic.render(self.windows, self.firing, out);
        if let Some(engine) = self.engine {
            engine.render(out);
        }
        if let Some(kernel) = self.kernel {
            kernel.render(out);
        }
        Ok(())
    }
}
