//! Router of engine effects to metrics, status and outputs.

use std::{sync::Arc, thread, time::Duration};

use tracing::info;

use super::set::OutputSet;
use crate::{metrics::LabelContext, status::shared_status::SharedStatus};
use mailflow_engine::{
    event::{AggregatedAlert, Effects},
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

    /// Adds effects to the metrics and writes their lines.
    pub(crate) fn route(&self, (now, epoch): (Time, WallClockOffset), effects: &Effects) {
        let labels = LabelContext { services: &self.services, v6_source_prefix: self.v6_source_prefix };
        let mut snapshot = self.status.snapshot();
        snapshot.traffic.observe(effects, labels, now);
        snapshot.unlisted_clients.observe(effects, self.v6_source_prefix);
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
