//! Alerts by rule and state.

use std::sync::Arc;

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

/// Counts of alert events. Rules are identified by their index.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlertCounts {
    /// Events by rule: firing, resolved, suppressed.
    events: Vec<[u64; 3]>,
}

impl AlertCounts {
    /// Adds an event of the rule with this index.
    pub(crate) fn add(&mut self, rule: usize, alert: &Alert) {
        if self.events.len() <= rule {
            self.events.resize(rule + 1, [0; 3]);
        }
        let [firing, resolved, suppressed] = &mut self.events[rule];
        let count = match alert.state {
            _ if alert.suppressed.is_some() => suppressed,
            AlertState::Firing => firing,
            AlertState::Resolved => resolved,
        };
        *count += 1;
    }

    /// Writes the families. Every rule has its series from the start.
    pub(crate) fn render(&self, out: &mut String, rules: &[Arc<str>], firing: &[Arc<Alert>]) {
        // After a restart an alert may fire whose name has no event in this process, such as `spoofed-sources`.
        let mut counts: Vec<(&str, [u64; 2])> = rules.iter().map(|rule| (&**rule, [0; 2])).collect();
        for alert in firing {
            let index = counts.iter().position(|(rule, _)| **rule == *alert.rule).unwrap_or_else(|| {
                counts.push((&alert.rule, [0; 2]));
                counts.len() - 1
            });
            counts[index].1[usize::from(alert.suppressed.is_some())] += 1;
        }
        let (firing, resolved) = (AlertState::Firing.name(), AlertState::Resolved.name());
        FIRING_ALERTS.head(out);
        for (rule, counts) in counts {
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
