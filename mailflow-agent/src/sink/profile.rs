//! Events as JSON in the dialect that the reader speaks.

use super::{alert_log, ecs, flow_log, ocsf};
use crate::{
    config::Profile,
    engine::{event::Alert, flow::FlowRecord, time::Epoch},
};

/// A flow record as one line of JSON, without the line end.
///
/// # Errors
/// None that these types can bring about; it is serde's to say so.
pub fn flow_line(profile: Profile, record: &FlowRecord, epoch: Epoch) -> serde_json::Result<String> {
    match profile {
        Profile::Eve => flow_log::line(record, epoch),
        Profile::Ecs => serde_json::to_string(&ecs::flow(record, epoch)?),
        Profile::Ocsf => serde_json::to_string(&ocsf::flow(record, epoch)?),
    }
}

/// An alert event as one line of JSON, without the line end.
///
/// # Errors
/// None that these types can bring about; it is serde's to say so.
pub fn alert_line(profile: Profile, alert: &Alert, epoch: Epoch) -> serde_json::Result<String> {
    match profile {
        Profile::Eve => alert_log::line(alert, epoch),
        Profile::Ecs => serde_json::to_string(&ecs::alert(alert, epoch)?),
        Profile::Ocsf => serde_json::to_string(&ocsf::alert(alert, epoch)?),
    }
}
