//! JSON of events in the configured schema.

use super::{
    ecs,
    eve::{alert, flow},
    gateway::Gateway,
    ocsf,
};
use crate::config::Profile;
use mailflow_engine::{event::Alert, flow::FlowRecord, time::WallClockOffset};

/// Schema of events, and the gateway that they name.
#[derive(Clone, Debug)]
pub struct EventFormat {
    /// Schema: EVE, ECS or OCSF.
    pub profile: Profile,
    /// Gateway named in events.
    pub gateway: Gateway,
}

/// Creates a format with the host name as gateway.
impl From<Profile> for EventFormat {
    fn from(profile: Profile) -> Self {
        Self { profile, gateway: Gateway::default() }
    }
}

impl EventFormat {
    /// Returns a flow record as one line of JSON, without the line end.
    ///
    /// # Errors
    /// Serialisation fails, which these types cannot cause.
    pub fn flow_line(&self, record: &FlowRecord, epoch: WallClockOffset) -> serde_json::Result<String> {
        match self.profile {
            Profile::Eve => flow::line(record, epoch, &self.gateway),
            Profile::Ecs => serde_json::to_string(&ecs::flow(record, epoch, &self.gateway)?),
            Profile::Ocsf => serde_json::to_string(&ocsf::flow(record, epoch, &self.gateway)?),
        }
    }

    /// Returns an alert event as one line of JSON, without the line end.
    ///
    /// # Errors
    /// Serialisation fails, which these types cannot cause.
    pub fn alert_line(&self, alert: &Alert, epoch: WallClockOffset) -> serde_json::Result<String> {
        self.line(alert, epoch, usize::MAX)
    }

    /// Returns an alert event as a line of at most `max_bytes`. The line has as many of its newest flows as
    /// fit, and the number of omitted ones. Returns `None` if the line does not fit without flows.
    ///
    /// # Errors
    /// Serialisation fails, which these types cannot cause.
    pub fn alert_line_within(
        &self,
        alert: &Alert,
        epoch: WallClockOffset,
        max_bytes: usize,
    ) -> serde_json::Result<Option<String>> {
        let full_line = self.alert_line(alert, epoch)?;
        if full_line.len() <= max_bytes {
            return Ok(Some(full_line));
        }
        // Binary search for the number of flows that fit.
        let (mut longest_fit, mut flows) = (None, 0..alert.flows.len());
        while !flows.is_empty() {
            let count = flows.start.midpoint(flows.end);
            let line = self.line(alert, epoch, count)?;
            if line.len() <= max_bytes {
                (longest_fit, flows.start) = (Some(line), count + 1);
            } else {
                flows.end = count;
            }
        }
        Ok(longest_fit)
    }

    /// Returns an alert event as a line with at most `flows` of its newest flows.
    ///
    /// # Errors
    /// As [`EventFormat::alert_line`].
    pub fn line(&self, alert: &Alert, epoch: WallClockOffset, flows: usize) -> serde_json::Result<String> {
        match self.profile {
            Profile::Eve => alert::line(alert, epoch, &self.gateway, flows),
            Profile::Ecs => serde_json::to_string(&ecs::alert(alert, epoch, &self.gateway, flows)?),
            Profile::Ocsf => serde_json::to_string(&ocsf::alert(alert, epoch, &self.gateway, flows)?),
        }
    }
}

/// Returns a flow record as one line of JSON, without the line end.
///
/// # Errors
/// As [`EventFormat::flow_line`].
pub fn flow_line(
    format: impl Into<EventFormat>,
    record: &FlowRecord,
    epoch: WallClockOffset,
) -> serde_json::Result<String> {
    format.into().flow_line(record, epoch)
}

/// Returns an alert event as one line of JSON, without the line end.
///
/// # Errors
/// As [`EventFormat::alert_line`].
pub fn alert_line(
    format: impl Into<EventFormat>,
    alert: &Alert,
    epoch: WallClockOffset,
) -> serde_json::Result<String> {
    format.into().alert_line(alert, epoch)
}
