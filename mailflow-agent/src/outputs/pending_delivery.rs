//! Alert events that were not delivered at the last checkpoint.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use mailflow_engine::{
    event::Alert,
    time::{Time, WallClockOffset},
};

/// Alert event to deliver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertDelivery {
    alert: Arc<Alert>,
    epoch: i128,
    /// True if the event also goes to outputs that notify people.
    pub notify: bool,
}

/// Alert event that some outputs have not delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingDelivery {
    /// Undelivered event.
    pub event: AlertDelivery,
    /// Names of these outputs.
    pub sinks: Vec<String>,
}

impl AlertDelivery {
    /// Creates an alert event with the offset of its times from Unix time.
    pub fn new(alert: Arc<Alert>, epoch: WallClockOffset, notify: bool) -> Self {
        Self { alert, epoch: epoch.unix_nanos(Time::ZERO), notify }
    }

    /// Returns the alert event with the offset of its times from Unix time.
    pub fn event(&self) -> (Arc<Alert>, WallClockOffset) {
        (Arc::clone(&self.alert), WallClockOffset::from_unix_nanos(self.epoch))
    }
}
