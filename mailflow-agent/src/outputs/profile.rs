//! Events as JSON in the dialect that the reader speaks.

use super::{
    ecs,
    eve::{alert, flow},
    gateway::Gateway,
    ocsf,
};
use crate::config::Profile;
use mailflow_engine::{event::Alert, flow::FlowRecord, time::WallClockOffset};

/// The dialect of events, and the gateway that they name.
#[derive(Clone, Debug)]
pub struct Format {
    /// The dialect.
    pub profile: Profile,
    /// The gateway.
    pub gateway: Gateway,
}

/// Events of this machine, by its host name.
impl From<Profile> for Format {
    fn from(profile: Profile) -> Self {
        Self { profile, gateway: Gateway::default() }
    }
}

impl Format {
    /// Returns a flow record as one line of JSON, without the line end.
    ///
    /// # Errors
    /// None that these types can bring about; it is serde's to say so.
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
    /// None that these types can bring about; it is serde's to say so.
    pub fn alert_line(&self, alert: &Alert, epoch: WallClockOffset) -> serde_json::Result<String> {
        self.line(alert, epoch, usize::MAX)
    }

    /// Returns an alert event as a line of at most `most` bytes: with as many of its newest flows as there is room
    /// for, and the number of those that were left out. None if there is no room for it without any.
    ///
    /// # Errors
    /// None that these types can bring about; it is serde's to say so.
    pub fn alert_line_within(
        &self,
        alert: &Alert,
        epoch: WallClockOffset,
        most: usize,
    ) -> serde_json::Result<Option<String>> {
        let whole = self.alert_line(alert, epoch)?;
        if whole.len() <= most {
            return Ok(Some(whole));
        }
        // How many flows there is room for, between none and one less than all.
        let (mut fitting, mut flows) = (None, 0..alert.flows.len());
        while !flows.is_empty() {
            let some = flows.start.midpoint(flows.end);
            let line = self.line(alert, epoch, some)?;
            if line.len() <= most {
                (fitting, flows.start) = (Some(line), some + 1);
            } else {
                flows.end = some;
            }
        }
        Ok(fitting)
    }

    /// Returns an alert event as a line with at most so many of its newest flows.
    ///
    /// # Errors
    /// As [`Format::alert_line`].
    pub fn line(&self, alert: &Alert, epoch: WallClockOffset, flows: usize) -> serde_json::Result<String> {
        match self.profile {
            Profile::Eve => alert::line(alert, epoch, &self.gateway, flows),
            Profile::Ecs => serde_json::to_string(&ecs::alert(alert, epoch, &self.gateway, flows)?),
            Profile::Ocsf => serde_json::to_string(&ocsf::alert(alert, epoch, &self.gateway, flows)?),
        }
    }
}

/// Returns a flow record of this machine as one line of JSON, without the line end.
///
/// # Errors
/// As [`Format::flow_line`].
pub fn flow_line(
    format: impl Into<Format>,
    record: &FlowRecord,
    epoch: WallClockOffset,
) -> serde_json::Result<String> {
    format.into().flow_line(record, epoch)
}

/// Returns an alert event of this machine as one line of JSON, without the line end.
///
/// # Errors
/// As [`Format::alert_line`].
pub fn alert_line(
    format: impl Into<Format>,
    alert: &Alert,
    epoch: WallClockOffset,
) -> serde_json::Result<String> {
    format.into().alert_line(alert, epoch)
}
