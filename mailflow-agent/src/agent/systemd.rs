//! Notifications to the service manager (sd_notify(3)), if there is one.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

/// Service manager.
pub(crate) struct ServiceManager {
    /// Interval of the watchdog, if it is enabled.
    watchdog: Option<Interval>,
    last_status: String,
}

impl ServiceManager {
    /// Creates the connection to the service manager that started this process. Needs a tokio runtime.
    pub(crate) fn new() -> Self {
        let watchdog = sd_notify::watchdog_enabled().map(|limit| {
            // A third of the limit, so that one late tick is still in time.
            let mut ticks = interval((limit / 3).max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { watchdog, last_status: String::new() }
    }

    /// Notifies that the agent counts.
    pub(crate) fn ready(&mut self, status: &str) {
        self.last_status = status.to_owned();
        notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Notifies that the configuration is being read again; [`ServiceManager::ready`] follows.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => debug!(%error, "failed to read the clock for the service manager"),
        }
    }

    /// Sends the status, if it has changed.
    pub(crate) fn status(&mut self, status: String) {
        if status != self.last_status {
            notify(&[NotifyState::Status(&status)]);
            self.last_status = status;
        }
    }

    /// Notifies that the agent stops.
    pub(crate) fn stopping(&self) {
        notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Returns when [`ServiceManager::ping_watchdog`] is due. Never returns without a watchdog.
    pub(crate) async fn watchdog_due(&mut self) {
        match &mut self.watchdog {
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Notifies that the poll loop is alive.
    pub(crate) fn ping_watchdog(&self) {
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "failed to notify the service manager");
    }
}
