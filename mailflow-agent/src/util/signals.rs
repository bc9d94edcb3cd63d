//! Signals that stop the agent or reload its configuration.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Event of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEvent {
    /// SIGTERM or SIGINT: stop, with the programs handled as configured.
    Stop,
    /// SIGQUIT: stop, and detach the programs.
    StopAndDetach,
    /// SIGHUP: reload the configuration.
    Reload,
}

/// Handlers of SIGTERM, SIGINT, SIGQUIT and SIGHUP.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Installs the handlers. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> SignalEvent {
        tokio::select! {
            biased;
            // SIGQUIT has priority over the other signals.
            _ = self.quit.recv() => SignalEvent::StopAndDetach,
            _ = self.terminate.recv() => SignalEvent::Stop,
            _ = self.interrupt.recv() => SignalEvent::Stop,
            _ = self.hang_up.recv() => SignalEvent::Reload,
        }
    }
}
