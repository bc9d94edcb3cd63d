//! Events that sinks receive.

use mailflow_engine::{event::Alert, flow::FlowRecord, time::WallClockOffset};
use std::sync::Arc;

/// Alert event, and the offset of its times from Unix time.
pub type AlertEvent = (Arc<Alert>, WallClockOffset);

/// Flow record, and the offset of its times from Unix time.
pub type FlowEvent = (Arc<FlowRecord>, WallClockOffset);
