//! Alerts by rule and state.

use std::{collections::HashMap, sync::Arc};

use super::text::MetricFamily;
use mailflow_engine::event::{Alert, AlertState};

const FIRING_ALERTS: MetricFamily =
    MetricFamily::gauge("mailflow_alerts", "Number of firing alerts, by rule and state.");
const ALERT_EVENTS: MetricFamily = MetricFamily::counter(
    "mailflow_alert_events_total",
    "Number of alert events, repeats included, by rule and state.",
);

/// State of alerts about flows on an allow-list, which do not notify people.
const SUPPRESSED_STATE: &str = "suppressed";

/// Counts of alerts. Rules are identified by their index.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlertCounts {
    /// Rule of each firing alert, by fingerprint and suppression.
    firing: HashMap<(String, bool), usize>,
    /// Events by rule: firing, resolved, suppressed.
    events: Vec<[u64; 3]>,
}

impl AlertCounts {
    /// Adds an event of the rule with this index.
    pub(crate) fn add(&mut self, rule: usize, alert: &Alert) {
        if self.events.len() <= rule {
            self.events.resize(rule + 1, [0; 3]);
        }
        let [firing, resolved, suppressed_events] = &mut self.events[rule];
        let suppressed = alert.suppressed.is_some();
        let key = (alert.fingerprint.clone(), suppressed);
        let count = match alert.state {
            AlertState::Firing => {
                self.firing.insert(key, rule);
                firing
            }
            AlertState::Resolved => {
                self.firing.remove(&key);
                resolved
            }
        };
        *(if suppressed { suppressed_events } else { count }) += 1;
    }

    /// Adds a firing alert of the previous process.
    pub(crate) fn restore_firing(&mut self, rule: usize, fingerprint: &str) {
        self.firing.insert((fingerprint.to_owned(), false), rule);
    }

    /// Writes the families. Every rule has its series from the start.
    pub(crate) fn render(&self, out: &mut String, rules: &[Arc<str>]) {
        let mut firing_counts = vec![[0_u64; 2]; rules.len()];
        for ((_, suppressed), rule) in &self.firing {
            firing_counts[*rule][usize::from(*suppressed)] += 1;
        }
        let (firing, resolved) = (AlertState::Firing.name(), AlertState::Resolved.name());
        FIRING_ALERTS.head(out);
        for (rule, counts) in rules.iter().zip(firing_counts) {
            for (state, number) in [firing, SUPPRESSED_STATE].into_iter().zip(counts) {
                FIRING_ALERTS.sample(out, &[("rule", rule), ("state", state)], number);
            }
        }
        ALERT_EVENTS.head(out);
        for (index, rule) in rules.iter().enumerate() {
            let counts = self.events.get(index).copied().unwrap_or_default();
            for (state, number) in [firing, resolved, SUPPRESSED_STATE].into_iter().zip(counts) {
                ALERT_EVENTS.sample(out, &[("rule", rule), ("state", state)], number);
            }
        }
    }
}
