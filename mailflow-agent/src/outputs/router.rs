//! Router of engine effects to metrics, status and outputs.

use std::{sync::Arc, thread, time::Duration};

use tracing::info;

use super::set::OutputSet;
use crate::{
    control::StoredAlert,
    metrics::LabelContext,
    status::{active_alerts::ActiveAlerts, shared_status::SharedStatus},
};
use mailflow_engine::{
    event::{AggregatedAlert, Alert, Effects},
    settings::Services,
    time::{Time, WallClockOffset},
};
use mailflow_kernel::clock;

/// Interval of checks that all lines are written.
const FLUSH_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Router of engine effects.
pub(crate) struct EffectRouter {
    pub(crate) outputs: OutputSet,
    pub(crate) status: Arc<SharedStatus>,
    pub(crate) services: Services,
    pub(crate) v6_source_prefix: u8,
}

impl EffectRouter {
    /// Adds effects to the metrics without writing lines.
    pub(crate) fn add_to_metrics(&self, now: Time, effects: &Effects) {
        let labels = LabelContext { services: &self.services, v6_source_prefix: self.v6_source_prefix };
        let mut snapshot = self.status.snapshot();
        snapshot.traffic.observe(effects, labels, now);
        snapshot.unlisted_clients.observe(effects, self.v6_source_prefix);
    }

    /// Restores the firing alerts of the previous process.
    pub(crate) fn restore_alerts(&self, firing: Vec<(u64, StoredAlert)>) {
        let mut snapshot = self.status.snapshot();
        for (_, alert) in &firing {
            snapshot.traffic.restore_firing(&alert.rule, &alert.fingerprint);
        }
        snapshot.firing = ActiveAlerts::restored(firing);
    }

    /// Updates the firing alerts in the status with replayed events.
    pub(crate) fn update_firing(&self, alerts: &[Alert]) {
        self.status.snapshot().firing.update(alerts);
    }

    /// Returns the outputs.
    pub(crate) fn outputs(&self) -> &OutputSet {
        &self.outputs
    }

    /// Waits until all lines are written, for a limited time.
    pub(crate) fn wait_until_written(&self) {
        let start = clock::now();
        while !self.outputs.files_flushed() && clock::now().since(start) < FINAL_WRITE_TIMEOUT {
            thread::sleep(FLUSH_POLL_INTERVAL);
        }
    }

    /// Returns the firing alerts for the checkpoint.
    pub(crate) fn firing(&self) -> Vec<(u64, StoredAlert)> {
        self.status.snapshot().firing.to_checkpoint()
    }

    /// Adds effects to the metrics and writes their lines.
    pub(crate) fn route(&self, (now, epoch): (Time, WallClockOffset), effects: &Effects) {
        let labels = LabelContext { services: &self.services, v6_source_prefix: self.v6_source_prefix };
        let mut snapshot = self.status.snapshot();
        snapshot.traffic.observe(effects, labels, now);
        snapshot.unlisted_clients.observe(effects, self.v6_source_prefix);
        snapshot.firing.update(&effects.alerts);
        drop(snapshot);
        log_grouped(effects);
        self.outputs.write(effects, epoch);
    }
}

/// Largest number of alerts in a line of the log.
const MAX_ALERTS_PER_LINE: usize = 50;

/// Logs the alerts that one grouped alert replaces. The grouped alert contains examples only.
fn log_grouped(effects: &Effects) {
    for alerts in effects.aggregated_alerts.chunk_by(|one, other| one.rule == other.rule) {
        for alerts in alerts.chunks(MAX_ALERTS_PER_LINE) {
            let describe = |alert: &AggregatedAlert| format!("{} {}", alert.fingerprint, alert.group_key);
            let rule = alerts.first().map_or("", |alert| &alert.rule);
            let alerts: Vec<String> = alerts.iter().map(describe).collect();
            info!(rule, number = alerts.len(), alerts = alerts.join(", "), "alerts reported as one");
        }
    }
}

/// Longest time to write waiting lines at the end.
pub(crate) const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(5);
