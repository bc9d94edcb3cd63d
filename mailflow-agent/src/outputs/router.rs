//! Where effects go: the numbers that are shown, and the outputs.

use std::{sync::Arc, thread, time::Duration};

use tracing::info;

use super::set::Outputs;
use crate::{
    control::Firing,
    metrics::Places,
    status::{active_alerts::FiringAlerts, shared_status::View},
};
use mailflow_engine::{
    event::{AggregatedAlert, Alert, Effects},
    settings::Services,
    time::{Time, WallClockOffset},
};
use mailflow_kernel::clock;

/// Between two looks whether all is written.
const PAUSE: Duration = Duration::from_millis(5);

/// Where effects go.
pub(crate) struct Sinks {
    pub(crate) outputs: Outputs,
    pub(crate) view: Arc<View>,
    pub(crate) services: Services,
    pub(crate) v6_source_prefix: u8,
}

impl Sinks {
    /// Books effects without writing lines.
    pub(crate) fn book(&self, now: Time, effects: &Effects) {
        let places = Places { services: &self.services, v6_source_prefix: self.v6_source_prefix };
        let mut numbers = self.view.numbers();
        numbers.ledger.observe(effects, places, now);
        numbers.clients.observe(effects, self.v6_source_prefix);
    }

    /// These alerts fire, as another process told.
    pub(crate) fn resume_alerts(&self, firing: Vec<(u64, Firing)>) {
        let mut numbers = self.view.numbers();
        for (_, alert) in &firing {
            numbers.ledger.resume(&alert.rule, &alert.fingerprint);
        }
        numbers.firing = FiringAlerts::of(firing);
    }

    /// Takes note of alerts that are told again, or were told by another process.
    pub(crate) fn told(&self, alerts: &[Alert]) {
        self.view.numbers().firing.take(alerts);
    }

    /// Where alerts and records go.
    pub(crate) fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Waits until all lines are written, as far as that is possible within a grace.
    pub(crate) fn wait_until_written(&self) {
        let begin = clock::now();
        while !self.outputs.is_written() && clock::now().since(begin) < GRACE {
            thread::sleep(PAUSE);
        }
    }

    /// The alerts that fire, for the agent after this one.
    pub(crate) fn firing(&self) -> Vec<(u64, Firing)> {
        self.view.numbers().firing.saved()
    }

    /// Books effects and writes their lines.
    pub(crate) fn take(&self, (now, epoch): (Time, WallClockOffset), effects: &Effects) {
        let places = Places { services: &self.services, v6_source_prefix: self.v6_source_prefix };
        let mut numbers = self.view.numbers();
        numbers.ledger.observe(effects, places, now);
        numbers.clients.observe(effects, self.v6_source_prefix);
        numbers.firing.take(&effects.alerts);
        drop(numbers);
        log_grouped(effects);
        self.outputs.write(effects, epoch);
    }
}

/// Alerts of one line of the log.
const IN_A_LINE: usize = 50;

/// Names the alerts that are told together, each by its fingerprint: their one alert has examples only.
fn log_grouped(effects: &Effects) {
    for alerts in effects.aggregated_alerts.chunk_by(|one, other| one.rule == other.rule) {
        for alerts in alerts.chunks(IN_A_LINE) {
            let named = |alert: &AggregatedAlert| format!("{} {}", alert.fingerprint, alert.group_key);
            let rule = alerts.first().map_or("", |alert| &alert.rule);
            let alerts: Vec<String> = alerts.iter().map(named).collect();
            info!(rule, number = alerts.len(), alerts = alerts.join(", "), "alerts told together");
        }
    }
}

/// How long what is waiting to be written may take at the end.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
