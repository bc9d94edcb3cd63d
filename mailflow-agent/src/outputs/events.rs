//! Events that sinks receive.

use mailflow_engine::{event::Alert, flow::FlowRecord, time::Epoch};
use std::sync::Arc;

/// Alert event, and the offset of its times from Unix time.
pub type AlertEvent = (Arc<Alert>, Epoch);

/// Flow record, and the offset of its times from Unix time.
pub type FlowEvent = (Arc<FlowRecord>, Epoch);
