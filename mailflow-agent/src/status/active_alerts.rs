//! The alerts that fire, for who asks.

use std::collections::HashMap;

use crate::control::{Firing, FiringAlert, Number};
use mailflow_engine::{
    event::{Alert, AlertState, Value},
    query::window_scan::TermProgress,
    settings::unit,
    time::Time,
};

/// The alerts that fire, by fingerprint.
#[derive(Clone, Debug, Default)]
pub(crate) struct FiringAlerts {
    firing: HashMap<String, (Time, Firing)>,
}

impl FiringAlerts {
    /// Takes note of alert events, in their order.
    pub(crate) fn take(&mut self, alerts: &[Alert]) {
        // Of what an allow-list suppresses nobody is told.
        for alert in alerts.iter().filter(|alert| alert.suppressed.is_none()) {
            match alert.state {
                AlertState::Firing => {
                    let firing = (alert.starts_at, shown(alert));
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

    /// Those that another process told.
    pub(crate) fn of(firing: Vec<(u64, Firing)>) -> Self {
        let of = |(starts_at, firing): (u64, Firing)| {
            (firing.fingerprint.clone(), (Time::from_nanos(starts_at), firing))
        };
        Self { firing: firing.into_iter().map(of).collect() }
    }

    /// Each with the moment it began to fire.
    pub(crate) fn saved(&self) -> Vec<(u64, Firing)> {
        self.firing.values().map(|(starts_at, firing)| (starts_at.as_nanos(), firing.clone())).collect()
    }

    /// Returns them, the oldest first, each with what its window held when the windows were last gone over; before
    /// that with the numbers of its last event.
    pub(crate) fn shown(&self, windows: &[TermProgress]) -> Vec<FiringAlert> {
        let now: HashMap<(&str, String), &TermProgress> =
            windows.iter().map(|one| ((&*one.rule, one.group_key.to_string()), one)).collect();
        let mut firing: Vec<_> = self.firing.values().collect();
        firing.sort_by(|(one, a), (other, b)| (one, &a.fingerprint).cmp(&(other, &b.fingerprint)));
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
                    value: Number::of(value, scale),
                    at_bound: now.is_some_and(|now| matches!(now.value, Value::AtLeast(_))),
                    threshold: Number::of(threshold, scale),
                }
            })
            .collect()
    }
}

fn shown(alert: &Alert) -> Firing {
    Firing {
        rule: alert.rule.to_string(),
        severity: alert.severity.name().to_owned(),
        source: alert.group_key.to_string(),
        fingerprint: alert.fingerprint.clone(),
        since: alert.starts_at_unix as f64 / 1e9,
        value: alert.deciding_term.value.number(),
        threshold: alert.deciding_term.threshold,
    }
}
