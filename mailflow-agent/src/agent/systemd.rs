//! What the service manager is told (sd_notify(3)); nothing, where there is none.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

/// The service manager.
pub(crate) struct ServiceManager {
    /// When it is to hear that the poll loop turns.
    watchdog: Option<Interval>,
    last_status: String,
}

impl ServiceManager {
    /// The one that started this process, if one did. Needs a tokio runtime.
    pub(crate) fn new() -> Self {
        let watchdog = sd_notify::watchdog_enabled().map(|limit| {
            // Thrice, so that a late one is early enough.
            let mut ticks = interval((limit / 3).max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { watchdog, last_status: String::new() }
    }

    /// The agent counts.
    pub(crate) fn ready(&mut self, status: &str) {
        self.last_status = status.to_owned();
        notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The configuration is read again; [`ServiceManager::ready`] follows.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => debug!(%error, "no time to tell the service manager"),
        }
    }

    /// How it is, where that is news.
    pub(crate) fn status(&mut self, status: String) {
        if status != self.last_status {
            notify(&[NotifyState::Status(&status)]);
            self.last_status = status;
        }
    }

    /// The agent stops.
    pub(crate) fn stopping(&self) {
        notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Returns when it is time for [`ServiceManager::alive`]; never, where nobody watches.
    pub(crate) async fn watchdog_due(&mut self) {
        match &mut self.watchdog {
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
    }

    /// The poll loop turns.
    pub(crate) fn ping_watchdog(&self) {
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager does not listen");
    }
}
