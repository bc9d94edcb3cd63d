//! Events as sinks get them.

use mailflow_engine::{event::Alert, flow::FlowRecord, time::WallClockOffset};
use std::sync::Arc;

/// An alert event, and where its times lie on the wall clock.
pub type AlertEvent = (Arc<Alert>, WallClockOffset);

/// A flow record, and where its times lie on the wall clock.
pub type FlowEvent = (Arc<FlowRecord>, WallClockOffset);
