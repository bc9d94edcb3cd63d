//! Alerts to any receiver of JSON: one POST for each event.
//!
//! An event without a response in time, or with a server error, is retried separately. Other events are
//! posted meanwhile, except later events of the same alert, which stay in order. If several consecutive
//! events fail, the receiver counts as failed and all events wait.

use std::{collections::HashSet, time::Duration};

use anyhow::anyhow;

use super::{
    AlertEvent,
    dead_letters::{DeadLetter, DeadLetterFile},
    http_client::{HttpClient, ReceiverResponse, RequestError},
    profile::EventFormat,
    worker::{Acceptance, SinkCounters, Transport},
};
use crate::util::error_chain;
use mailflow_engine::{
    event::{Alert, AlertState},
    time::Time,
};
use mailflow_kernel::clock;

/// Largest number of events taken from the queue before they are sent.
const PREFETCH_EVENTS: usize = 1_024;
/// Consecutive failures of different events after which the receiver counts as failed.
const MAX_CONSECUTIVE_FAILURES: usize = 3;
/// Pause of an event after its first failure. Each further failure doubles it.
const FIRST_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause of an event.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);
/// Interval at which files with dead letters are counted again.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Transport to a receiver.
pub(crate) struct Webhook {
    sink: String,
    client: HttpClient,
    format: EventFormat,
    dead_letters: DeadLetterFile,
    /// Undelivered events in order of arrival.
    pending: Vec<PendingEvent>,
    /// Pause that the last response requested.
    requested_pause: Option<Duration>,
}

/// Event that is not delivered yet.
struct PendingEvent {
    event: AlertEvent,
    /// Number of failures.
    failures: u32,
    /// Time of the next attempt.
    due: Time,
}

/// Result of posting an event.
enum PostOutcome {
    Delivered,
    /// Permanent refusal by the receiver.
    Refused,
    /// Failure of this event. Others may succeed.
    Failed(anyhow::Error),
    /// Failure that would affect every event.
    Unreachable(anyhow::Error),
}

impl Webhook {
    /// Creates a transport to the receiver of `client`.
    pub(crate) fn new(
        sink: String,
        client: HttpClient,
        format: EventFormat,
        dead_letters: DeadLetterFile,
    ) -> Self {
        Self { sink, client, format, dead_letters, pending: Vec::new(), requested_pause: None }
    }

    /// Returns the index of the event to post at `now`: among the due events the one with the fewest
    /// failures, the oldest first. An event waits for earlier events of its alert.
    fn next_due(&self, now: Time) -> Option<usize> {
        let mut alerts = HashSet::new();
        let first = self
            .pending
            .iter()
            .enumerate()
            .filter(|(_, pending_event)| alerts.insert(pending_event.event.0.fingerprint.as_str()));
        let due = first.filter(|(_, pending_event)| pending_event.due <= now);
        due.min_by_key(|(_, pending_event)| pending_event.failures).map(|(index, _)| index)
    }

    /// Posts an event and classifies the response.
    fn post_event(&mut self, event: &AlertEvent) -> PostOutcome {
        let line = match self.format.alert_line(&event.0, event.1) {
            Ok(line) => line,
            Err(error) => return PostOutcome::Failed(error.into()),
        };
        let key = idempotency_key(&event.0);
        let response = match self.client.send(&line, &[("idempotency-key", key.clone())]) {
            Ok(response) => response,
            Err(RequestError::Unreachable(error)) => return PostOutcome::Unreachable(error),
            Err(RequestError::Unanswered(error)) => return PostOutcome::Failed(error),
        };
        if response.status.is_success() {
            return PostOutcome::Delivered;
        }
        let error = self.error(&response);
        match response.status.as_u16() {
            408 | 425 => PostOutcome::Failed(error),
            429 => {
                self.requested_pause = response.retry_after;
                PostOutcome::Unreachable(error)
            }
            400..=499 => {
                self.add_dead_letter(&line, &key, &response);
                PostOutcome::Refused
            }
            500..=599 if response.retry_after.is_none() => PostOutcome::Failed(error),
            // A redirect is not followed. A captive portal's redirect may be gone at the next attempt.
            _ => {
                self.requested_pause = response.retry_after;
                PostOutcome::Unreachable(error)
            }
        }
    }

    /// Returns the error that a failed response means.
    fn error(&self, response: &ReceiverResponse) -> anyhow::Error {
        let receiver = self.client.display_name();
        match &response.redirect_origin {
            Some(to) => anyhow!("{receiver}: {}: redirects to {to}, which is not followed", response.status),
            None => anyhow!("{receiver}: {}: {}", response.status, response.body_excerpt),
        }
    }

    /// Adds an event to the dead letters.
    fn add_dead_letter(&mut self, event: &str, key: &str, response: &ReceiverResponse) {
        let receiver = self.client.display_name();
        let reason = format!("{}: {}", response.status, response.body_excerpt);
        let (sink, status) = (self.sink.as_str(), response.status.as_u16());
        let letter = DeadLetter { sink, receiver: &receiver, status, reason: &reason, key, event };
        let written = self.dead_letters.add(&letter);
        let consequence = match &written {
            Ok(()) => "it was added to the dead letters".to_owned(),
            Err(error) => format!("it is lost, because the file of dead letters cannot be written: {error}"),
        };
        tracing::error!(sink, receiver, reason, "the receiver refuses an event permanently; {consequence}");
    }
}

impl Transport<AlertEvent> for Webhook {
    fn accept(&mut self, event: AlertEvent) -> Acceptance {
        self.pending.push(PendingEvent { event, failures: 0, due: Time::ZERO });
        Acceptance::Queued
    }

    fn can_accept(&self) -> bool {
        self.pending.len() < PREFETCH_EVENTS
    }

    fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
        self.requested_pause = None;
        if self.dead_letters.has_any() {
            self.dead_letters.recount();
        }
        let (mut failures_in_row, mut accepted_any) = (0, false);
        while let Some(index) = self.next_due(clock::now()) {
            let event = self.pending[index].event.clone();
            match self.post_event(&event) {
                PostOutcome::Delivered => {
                    self.pending.remove(index);
                    counters.count_delivered(1);
                    (failures_in_row, accepted_any) = (0, true);
                }
                PostOutcome::Refused => {
                    self.pending.remove(index);
                    counters.count_lost(1);
                    (failures_in_row, accepted_any) = (0, true);
                }
                PostOutcome::Unreachable(error) => return Err(error),
                PostOutcome::Failed(error) => {
                    let pending_event = &mut self.pending[index];
                    pending_event.failures = pending_event.failures.saturating_add(1);
                    failures_in_row += 1;
                    if failures_in_row >= MAX_CONSECUTIVE_FAILURES && !accepted_any {
                        // All events wait together. Events with fewer failures come first at the next
                        // attempt.
                        let now = clock::now();
                        self.pending
                            .iter_mut()
                            .for_each(|pending_event| pending_event.due = pending_event.due.min(now));
                        return Err(error);
                    }
                    let doubled =
                        FIRST_RETRY_PAUSE * 2_u32.saturating_pow(pending_event.failures.min(10) - 1);
                    let pause = doubled.min(MAX_RETRY_PAUSE);
                    pending_event.due = clock::now() + pause;
                    counters.errors.inc();
                    let (sink, error) = (&self.sink, error_chain::format_error_chain(&error));
                    tracing::warn!(sink, error, ?pause, "an event was not delivered; it is posted again");
                    if failures_in_row >= MAX_CONSECUTIVE_FAILURES {
                        // The receiver accepted some events. The next call shows if it has failed.
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        // Closing the sink does not wait for events that have failed, nor for later events of the same alert.
        let mut alerts = HashSet::new();
        let mut first = self
            .pending
            .iter()
            .filter(|pending_event| alerts.insert(pending_event.event.0.fingerprint.as_str()));
        first.all(|pending_event| pending_event.failures > 0)
    }

    fn due(&self) -> Option<Duration> {
        let now = clock::now();
        let next_due = self.pending.iter().map(|pending_event| pending_event.due.since(now)).min();
        let count = self.dead_letters.has_any().then_some(COUNT_INTERVAL);
        next_due.into_iter().chain(count).min().map(|wait| wait.max(Duration::from_millis(1)))
    }

    fn requested_pause(&self) -> Option<Duration> {
        self.requested_pause
    }
}

/// Returns the key by which a receiver recognises a repeated request: fingerprint, start and state. A
/// repeated alert has another body, so its key also has the seconds since the start.
fn idempotency_key(alert: &Alert) -> String {
    let start = alert.starts_at_unix.div_euclid(1_000_000);
    let key = format!("{}-{start}-{}", alert.fingerprint, alert.state.name());
    let repeat = alert.time.since(alert.starts_at).as_secs();
    match alert.state {
        AlertState::Firing if alert.time != alert.starts_at => format!("{key}-{repeat}"),
        _ => key,
    }
}
