//! StoredAlert alerts for `status`.

use std::collections::HashMap;

use crate::control::{FiringAlert, StatusNumber, StoredAlert};
use mailflow_engine::{
    event::{Alert, AlertState, Value},
    query::window_scan::TermProgress,
    settings::unit,
    time::Time,
};

/// StoredAlert alerts by fingerprint.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveAlerts {
    firing: HashMap<String, (Time, StoredAlert)>,
}

impl ActiveAlerts {
    /// Applies alert events in order.
    pub(crate) fn update(&mut self, alerts: &[Alert]) {
        // Suppressed alerts do not notify people.
        for alert in alerts.iter().filter(|alert| alert.suppressed.is_none()) {
            match alert.state {
                AlertState::Firing => {
                    let firing = (alert.starts_at, firing_row(alert));
                    self.firing.insert(alert.fingerprint.clone(), firing);
                }
                AlertState::Resolved => drop(self.firing.remove(&alert.fingerprint)),
            }
        }
    }

    /// Returns the number of firing alerts.
    pub(crate) fn len(&self) -> usize {
        self.firing.len()
    }

    /// Restores the firing alerts of the previous process.
    pub(crate) fn restored(firing: Vec<(u64, StoredAlert)>) -> Self {
        let restored = |(starts_at, firing): (u64, StoredAlert)| {
            (firing.fingerprint.clone(), (Time::from_nanos(starts_at), firing))
        };
        Self { firing: firing.into_iter().map(restored).collect() }
    }

    /// Returns each alert with the time of its start.
    pub(crate) fn to_checkpoint(&self) -> Vec<(u64, StoredAlert)> {
        self.firing.values().map(|(starts_at, firing)| (starts_at.as_nanos(), firing.clone())).collect()
    }

    /// Returns the alerts, the oldest first, with the window values of the last scan. Before the first scan
    /// they have the values of their last event.
    pub(crate) fn status_rows(&self, windows: &[TermProgress]) -> Vec<FiringAlert> {
        let now: HashMap<(&str, String), &TermProgress> =
            windows.iter().map(|first| ((&*first.rule, first.group_key.to_string()), first)).collect();
        let mut firing: Vec<_> = self.firing.values().collect();
        firing.sort_by(|(first, a), (second, b)| (first, &a.fingerprint).cmp(&(second, &b.fingerprint)));
        firing
            .into_iter()
            .map(|(_, firing)| {
                let now = now.get(&(&*firing.rule, firing.source.clone()));
                let scale = now.map_or(1, |now| now.scale);
                let (value, threshold) =
                    now.map_or((firing.value, firing.threshold), |now| (now.value.number(), now.threshold));
                FiringAlert {
                    rule: firing.rule.clone(),
                    severity: firing.severity.clone(),
                    source: firing.source.clone(),
                    fingerprint: firing.fingerprint.clone(),
                    since: firing.since,
                    condition: now.map(|now| now.term.to_string()),
                    unit: now.map(|now| unit(&now.term).to_owned()),
                    value: StatusNumber::of(value, scale),
                    at_bound: now.is_some_and(|now| matches!(now.value, Value::AtLeast(_))),
                    threshold: StatusNumber::of(threshold, scale),
                }
            })
            .collect()
    }
}

/// Converts an alert event to a checkpointed alert.
fn firing_row(alert: &Alert) -> StoredAlert {
    StoredAlert {
        rule: alert.rule.to_string(),
        severity: alert.severity.name().to_owned(),
        source: alert.group_key.to_string(),
        fingerprint: alert.fingerprint.clone(),
        since: alert.starts_at_unix as f64 / 1e9,
        value: alert.deciding_term.value.number(),
        threshold: alert.deciding_term.threshold,
    }
}
