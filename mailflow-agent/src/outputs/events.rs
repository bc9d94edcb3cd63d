//! Events as sinks get them.

use mailflow_engine::{event::Alert, flow::FlowRecord, time::Epoch};
use std::sync::Arc;

/// An alert event, and where its times lie on the wall clock.
pub type AlertEvent = (Arc<Alert>, Epoch);

/// A flow record, and where its times lie on the wall clock.
pub type FlowEvent = (Arc<FlowRecord>, Epoch);
