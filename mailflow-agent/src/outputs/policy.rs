//! Selection of alert events for outputs. No other place decides which outputs get suppressed alerts.

use crate::config::AlertDestination;
use mailflow_engine::event::Alert;

/// Returns true if an alert notifies people. An alert that an allow-list suppresses does not.
pub(crate) fn notifies(alert: &Alert) -> bool {
    alert.suppressed.is_none()
}

/// Selection of alert events for an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AlertPolicy {
    /// All events, suppressed alerts included.
    Archive,
    /// Events that notify people.
    Notify,
    /// Events that notify people, with the firing alerts repeated after a restart or a reload.
    NotifyAndRefresh,
}

impl AlertPolicy {
    /// Returns the policy of a configured output.
    pub(super) const fn of(to: &AlertDestination) -> Self {
        match to {
            AlertDestination::Lines { .. } => Self::Archive,
            AlertDestination::Journal { .. }
            | AlertDestination::Syslog(_)
            | AlertDestination::Webhook { .. } => Self::Notify,
            AlertDestination::Alertmanager { .. } => Self::NotifyAndRefresh,
        }
    }

    /// Returns true if the output gets the events of this alert.
    pub(super) fn accepts(self, alert: &Alert) -> bool {
        self == Self::Archive || notifies(alert)
    }
}
