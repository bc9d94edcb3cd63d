//! Sinks that deliver one event after the other.

use std::collections::VecDeque;

use super::worker::{Counters, Taken, Transport};
use crate::util::error_chain;

/// Events taken out of the queue ahead of their delivery.
const AHEAD: usize = 16;

/// Why an event was not delivered.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is worth another try.
    Again(anyhow::Error),
    /// The other side does not want this one, however often it is tried.
    Refused(anyhow::Error),
}

impl Failure {
    /// The other side does not want it.
    pub(crate) fn refused(error: impl Into<anyhow::Error>) -> Self {
        Self::Refused(error.into())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Again(error.into())
    }
}

/// Delivers single events.
pub(crate) trait Deliver<T>: Send + 'static {
    /// Delivers one.
    fn deliver(&mut self, item: &T) -> Result<(), Failure>;
}

/// A transport made of it: in order, each as often as it takes.
#[derive(Debug)]
pub(crate) struct OneByOne<T, D> {
    waiting: VecDeque<T>,
    to: D,
}

impl<T, D> OneByOne<T, D> {
    /// Delivers with `to`.
    pub(crate) fn new(to: D) -> Self {
        Self { waiting: VecDeque::new(), to }
    }
}

impl<T: Send + 'static, D: Deliver<T>> Transport<T> for OneByOne<T, D> {
    fn take(&mut self, item: T) -> Taken {
        self.waiting.push_back(item);
        Taken::Kept
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < AHEAD
    }

    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
        while let Some(item) = self.waiting.front() {
            match self.to.deliver(item) {
                Ok(()) => counters.delivered(1),
                Err(Failure::Again(error)) => return Err(error),
                Err(Failure::Refused(error)) => {
                    tracing::error!(
                        error = error_chain::format_error_chain(&error),
                        "an event was refused and is lost"
                    );
                    counters.lost(1);
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
