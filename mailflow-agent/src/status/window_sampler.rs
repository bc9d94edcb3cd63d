//! Sampler of the rules' window values. Each poll scans a part, so that a million sources delay no poll.

use std::time::Duration;

use mailflow_engine::{
    Engine,
    query::window_scan::{WindowReport, WindowScan},
    time::Time,
};
use mailflow_kernel::clock;

/// Divisor of the poll interval that gives the time budget of a scan step. Checkpoints take a 200th of the
/// interval. All together a million idle sources should take less than a 100th of a core.
const INTERVAL_SHARE: u32 = 500;

/// Position of the scan.
#[derive(Debug)]
pub(crate) struct WindowSampler {
    survey: WindowScan,
    /// Time budget of a poll.
    budget: Duration,
}

impl WindowSampler {
    /// Creates a sampler of at most `max_values` values for polls at this interval.
    pub(crate) fn new(max_values: usize, poll_interval: Duration) -> Self {
        Self { survey: WindowScan::new(max_values), budget: poll_interval / INTERVAL_SHARE }
    }

    /// Continues the scan within the time budget. Returns the window values when the scan is complete.
    pub(crate) fn sample(&mut self, engine: &Engine, now: Time) -> Option<WindowReport> {
        let begin = clock::now();
        loop {
            let overview = engine.scan_windows(&mut self.survey, now);
            if overview.is_some() || clock::now().since(begin) >= self.budget {
                return overview;
            }
        }
    }
}
