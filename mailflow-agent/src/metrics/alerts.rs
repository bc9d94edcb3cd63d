//! Alerts by rule and state.

use std::{collections::HashMap, sync::Arc};

use super::text::Family;
use mailflow_engine::event::{Alert, AlertState};

const FIRING: Family = Family::gauge("mailflow_alerts", "Alerts that are firing now, by rule and state.");
const EVENTS: Family =
    Family::counter("mailflow_alert_events_total", "Alert events, repeats included, by rule and state.");

/// The state of alerts about flows on an allow-list, which nobody is told of.
const SUPPRESSED: &str = "suppressed";

/// Counts of alerts; rules by their index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alerts {
    /// The rule of each firing alert, by fingerprint and whether it is suppressed.
    firing: HashMap<(String, bool), usize>,
    /// Events by rule: firing, resolved, suppressed.
    events: Vec<[u64; 3]>,
}

impl Alerts {
    /// Books an event of the rule of this index.
    pub(crate) fn add(&mut self, rule: usize, alert: &Alert) {
        if self.events.len() <= rule {
            self.events.resize(rule + 1, [0; 3]);
        }
        let [firing, resolved, quiet] = &mut self.events[rule];
        let suppressed = alert.suppressed.is_some();
        let of = (alert.fingerprint.clone(), suppressed);
        let count = match alert.state {
            AlertState::Firing => {
                self.firing.insert(of, rule);
                firing
            }
            AlertState::Resolved => {
                self.firing.remove(&of);
                resolved
            }
        };
        *(if suppressed { quiet } else { count }) += 1;
    }

    /// An alert fires that another process told.
    pub(crate) fn resume(&mut self, rule: usize, fingerprint: &str) {
        self.firing.insert((fingerprint.to_owned(), false), rule);
    }

    /// Writes the families, with every rule from the beginning on.
    pub(crate) fn render(&self, out: &mut String, rules: &[Arc<str>]) {
        let mut now = vec![[0_u64; 2]; rules.len()];
        for ((_, suppressed), rule) in &self.firing {
            now[*rule][usize::from(*suppressed)] += 1;
        }
        let (firing, resolved) = (AlertState::Firing.name(), AlertState::Resolved.name());
        FIRING.head(out);
        for (rule, numbers) in rules.iter().zip(now) {
            for (state, number) in [firing, SUPPRESSED].into_iter().zip(numbers) {
                FIRING.sample(out, &[("rule", rule), ("state", state)], number);
            }
        }
        EVENTS.head(out);
        for (index, rule) in rules.iter().enumerate() {
            let numbers = self.events.get(index).copied().unwrap_or_default();
            for (state, number) in [firing, resolved, SUPPRESSED].into_iter().zip(numbers) {
                EVENTS.sample(out, &[("rule", rule), ("state", state)], number);
            }
        }
    }
}
