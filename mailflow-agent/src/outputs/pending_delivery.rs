//! Alert events that were not delivered at the last checkpoint.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use mailflow_engine::{event::Alert, time::WallClockOffset};

/// Alert event that some outputs have not delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingDelivery {
    /// Alert event.
    pub alert: Arc<Alert>,
    /// Offset of its times from Unix time.
    pub epoch: WallClockOffset,
    /// Names of these outputs.
    pub sinks: Vec<String>,
}
