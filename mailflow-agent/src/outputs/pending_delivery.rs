//! Alert events that were not delivered when the state was kept.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use mailflow_engine::{
    event::Alert,
    time::{Time, WallClockOffset},
};

/// An alert event on its way out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    alert: Arc<Alert>,
    epoch: i128,
    /// True if people are told of it, and not only records kept.
    pub told: bool,
}

/// An alert event that some outputs have not delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Untold {
    /// The event.
    pub event: Event,
    /// Their names.
    pub sinks: Vec<String>,
}

impl Event {
    /// An alert event, and where its times lie on the wall clock.
    pub fn new(alert: Arc<Alert>, epoch: WallClockOffset, told: bool) -> Self {
        Self { alert, epoch: epoch.unix_nanos(Time::ZERO), told }
    }

    /// The alert event, and where its times lie on the wall clock.
    pub fn event(&self) -> (Arc<Alert>, WallClockOffset) {
        (Arc::clone(&self.alert), WallClockOffset::from_unix_nanos(self.epoch))
    }
}
