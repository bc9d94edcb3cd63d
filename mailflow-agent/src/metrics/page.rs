//! The metrics page as a whole.

use super::{agent::Agent, engine_stats::Memory, kernel::KernelView, traffic_counters::Ledger};
use mailflow_engine::query::window_scan::WindowReport;

/// All that the page shows.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The agent's own metrics.
    pub agent: &'a Agent,
    /// What the effects add up to.
    pub ledger: &'a Ledger,
    /// What the rules' windows hold now.
    pub windows: &'a WindowReport,
    /// What the engine holds; `None` before the first poll.
    pub memory: Option<&'a Memory>,
    /// The kernel's side; `None` before the first poll.
    pub kernel: Option<&'a KernelView>,
}

impl Page<'_> {
    /// Appends the page, in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// The `prometheus` crate found a family without samples.
    pub fn render(&self, out: &mut String) -> Result<(), prometheus::Error> {
        self.agent.render(out)?;
        self.ledger.render(self.windows, out);
        if let Some(memory) = self.memory {
            memory.render(out);
        }
        if let Some(kernel) = self.kernel {
            kernel.render(out);
        }
        Ok(())
    }
}
