//! The streams of lines an agent writes.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use tracing::error;

use crate::{
    config,
    engine::{event::Effects, time::Epoch},
    sink::{
        alert_log, flow_log,
        lines::{LineSink, OpenError},
        metrics::Agent,
    },
};

/// Lines that may wait for a slow disk before they are dropped and counted.
const QUEUE: usize = 65_536;
/// Between two looks whether there is room again.
const PAUSE: Duration = Duration::from_millis(1);

/// Alerts and flow records on their way out.
pub(super) struct Outputs {
    alerts: Option<LineSink>,
    flow_log: Option<LineSink>,
}

impl Outputs {
    pub(super) fn open(outputs: &config::Outputs, agent: &Agent) -> Result<Self, OpenError> {
        let open = |target: &Option<config::Target>, name| match target {
            Some(target) => LineSink::start(target, QUEUE, agent.line_counters(name)).map(Some),
            None => Ok(None),
        };
        Ok(Self { alerts: open(&outputs.alerts, "alerts")?, flow_log: open(&outputs.flow_log, "flow_log")? })
    }

    /// Hands over what one call of the engine produced.
    pub(super) fn write(&self, effects: &Effects, epoch: Epoch) {
        if let Some(sink) = &self.flow_log {
            effects.records.iter().for_each(|record| push(sink, flow_log::line(record, epoch)));
        }
        if let Some(sink) = &self.alerts {
            effects.alerts.iter().for_each(|alert| push(sink, alert_log::line(alert, epoch)));
        }
    }

    /// Hands over what one call of the engine produced, and waits where there is no room for it: for
    /// those whose input waits too.
    pub(super) fn write_all(&self, effects: &Effects, epoch: Epoch) {
        for alert in &effects.alerts {
            if let Some(sink) = &self.alerts {
                while sink.counters().waiting.get() >= QUEUE as i64 {
                    thread::sleep(PAUSE);
                }
                push(sink, alert_log::line(alert, epoch));
            }
        }
    }

    /// Writes what waits.
    pub(super) fn close(self, grace: Duration) -> Result<()> {
        for (name, sink) in [("flow log", self.flow_log), ("alerts", self.alerts)] {
            if let Some(sink) = sink {
                sink.close(grace).context(name)?;
            }
        }
        Ok(())
    }
}

fn push(sink: &LineSink, line: serde_json::Result<String>) {
    match line {
        Ok(line) => sink.push(line),
        Err(error) => error!(%error, "an event cannot be written as JSON"),
    }
}
