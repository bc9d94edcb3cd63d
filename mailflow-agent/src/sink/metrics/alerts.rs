//! Alerts by rule and state.

use std::{collections::HashMap, sync::Arc};

use super::text::Family;
use crate::engine::event::{Alert, AlertState};

const FIRING: Family = Family::gauge("mailflow_alerts", "Alerts that are firing now, by rule and state.");
const EVENTS: Family =
    Family::counter("mailflow_alert_events_total", "Alert events, repeats included, by rule and state.");

/// Counts of alerts; rules by their index.
#[derive(Clone, Debug, Default)]
pub(super) struct Alerts {
    /// The rule of each firing alert, by fingerprint.
    firing: HashMap<String, usize>,
    /// Events by rule: firing, resolved.
    events: Vec<[u64; 2]>,
}

impl Alerts {
    /// Books an event of the rule of this index.
    pub(super) fn add(&mut self, rule: usize, alert: &Alert) {
        if self.events.len() <= rule {
            self.events.resize(rule + 1, [0; 2]);
        }
        let [firing, resolved] = &mut self.events[rule];
        match alert.state {
            AlertState::Firing => {
                *firing += 1;
                self.firing.insert(alert.fingerprint.clone(), rule);
            }
            AlertState::Resolved => {
                *resolved += 1;
                self.firing.remove(&alert.fingerprint);
            }
        }
    }

    /// Writes the families, with every rule from the beginning on.
    pub(super) fn render(&self, out: &mut String, rules: &[Arc<str>]) {
        let mut now = vec![0_u64; rules.len()];
        for rule in self.firing.values() {
            now[*rule] += 1;
        }
        let state = AlertState::Firing.name();
        FIRING.head(out);
        for (rule, number) in rules.iter().zip(now) {
            FIRING.sample(out, &[("rule", rule), ("state", state)], number);
        }
        EVENTS.head(out);
        for (index, rule) in rules.iter().enumerate() {
            let [firing, resolved] = self.events.get(index).copied().unwrap_or_default();
            for (state, number) in [(AlertState::Firing, firing), (AlertState::Resolved, resolved)] {
                EVENTS.sample(out, &[("rule", rule), ("state", state.name())], number);
            }
        }
    }
}
