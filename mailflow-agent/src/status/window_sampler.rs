//! What the rules' windows hold, for who looks: a part at each poll, so that a million sources stall none.

use std::time::Duration;

use mailflow_engine::{
    Engine,
    query::window_scan::{WindowReport, WindowScan},
    time::Time,
};
use mailflow_kernel::clock;

/// At most one part in this many of the time between two polls: with the state, which takes a 200th, and the polls, a
/// million quiet sources are to take less than a 100th of a core.
const SHARE: u32 = 500;

/// How far the windows have been gone over.
#[derive(Debug)]
pub(crate) struct Windows {
    survey: WindowScan,
    /// How long it may take at a poll.
    budget: Duration,
}

impl Windows {
    /// Tells at most `most` values, of polls that are so far apart.
    pub(crate) fn new(most: usize, poll_interval: Duration) -> Self {
        Self { survey: WindowScan::new(most), budget: poll_interval / SHARE }
    }

    /// Goes on as long as there is time; what the windows hold, once all have been gone over.
    pub(crate) fn show(&mut self, engine: &Engine, now: Time) -> Option<WindowReport> {
        let begin = clock::now();
        loop {
            let overview = engine.scan_windows(&mut self.survey, now);
            if overview.is_some() || clock::now().since(begin) >= self.budget {
                return overview;
            }
        }
    }
}
