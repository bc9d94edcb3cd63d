//! Signals that end the agent, or let it read its configuration again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM or SIGINT: the end, as the configuration wants it.
    Stop,
    /// SIGQUIT: the end for good, whose programs are not to count on.
    StopForGood,
    /// SIGHUP: the configuration, again.
    Reload,
}

/// SIGTERM, SIGINT, SIGQUIT and SIGHUP, listened for from now on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Begins to listen. Needs a tokio runtime.
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

    /// Returns once one came.
    pub async fn asked(&mut self) -> Asked {
        tokio::select! {
            biased;
            // Where both came, this one says more.
            _ = self.quit.recv() => Asked::StopForGood,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}
