//! Sinks that deliver one event at a time.

use std::collections::VecDeque;

use super::worker::{Acceptance, SinkCounters, Transport};
use crate::util::error_chain;

/// Largest number of events taken from the queue before they are sent.
const PREFETCH_EVENTS: usize = 16;

/// Reason why an event was not delivered.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Temporary error: the event is sent again.
    Retry(anyhow::Error),
    /// Permanent error: the receiver refuses the event.
    Refused(anyhow::Error),
}

impl SendError {
    /// Creates a permanent error.
    pub(crate) fn refused(error: impl Into<anyhow::Error>) -> Self {
        Self::Refused(error.into())
    }
}

impl<E: Into<anyhow::Error>> From<E> for SendError {
    fn from(error: E) -> Self {
        Self::Retry(error.into())
    }
}

/// Sender of single events.
pub(crate) trait SendOne<T>: Send + 'static {
    /// Sends one event.
    fn deliver(&mut self, item: &T) -> Result<(), SendError>;
}

/// Transport that sends events in order, each until it is delivered or refused.
#[derive(Debug)]
pub(crate) struct Sequential<T, D> {
    waiting: VecDeque<T>,
    sender: D,
}

impl<T, D> Sequential<T, D> {
    /// Creates a transport with this sender.
    pub(crate) fn new(sender: D) -> Self {
        Self { waiting: VecDeque::new(), sender }
    }
}

impl<T: Send + 'static, D: SendOne<T>> Transport<T> for Sequential<T, D> {
    fn accept(&mut self, item: T) -> Acceptance {
        self.waiting.push_back(item);
        Acceptance::Queued
    }

    fn can_accept(&self) -> bool {
        self.waiting.len() < PREFETCH_EVENTS
    }

    fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
        while let Some(item) = self.waiting.front() {
            match self.sender.deliver(item) {
                Ok(()) => counters.count_delivered(1),
                Err(SendError::Retry(error)) => return Err(error),
                Err(SendError::Refused(error)) => {
                    tracing::error!(
                        error = error_chain::format_error_chain(&error),
                        "the receiver refused an event; it is lost"
                    );
                    counters.count_lost(1);
                }
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
