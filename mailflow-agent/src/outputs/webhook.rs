//! Alerts to any receiver of JSON: a POST for each event.
//!
//! An event that the receiver does not take in time, or answers with a failure of its own, waits by itself: those
//! behind it are posted meanwhile, but for later events of the same alert, which keep their order. Where several in a
//! row fail, the receiver is taken to be the cause, and all wait.

use std::{collections::HashSet, time::Duration};

use anyhow::anyhow;

use super::{
    AlertEvent,
    dead_letters::{DeadLetters, Letter},
    http_client::{Answer, NoAnswer, Post},
    profile::Format,
    worker::{Counters, Taken, Transport},
};
use crate::util::error_chain;
use mailflow_engine::{
    event::{Alert, AlertState},
    time::Time,
};
use mailflow_kernel::clock;

/// Events taken out of the queue ahead of their delivery.
const AHEAD: usize = 1_024;
/// Different events that fail in a row before the receiver is taken to be the cause.
const IN_A_ROW: usize = 3;
/// The pause of an event after its first failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause of an event.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often files of dead letters are looked at while they hold any.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// A receiver.
pub(crate) struct Webhook {
    sink: String,
    post: Post,
    format: Format,
    letters: DeadLetters,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    /// The pause that the receiver asked for with its last answer.
    asked: Option<Duration>,
}

/// An event that is not delivered yet.
struct Waiting {
    event: AlertEvent,
    /// Failures so far.
    failures: u32,
    /// When it is posted again.
    due: Time,
}

/// What became of an event.
enum Outcome {
    Delivered,
    /// The receiver will never take it.
    Refused,
    /// This event failed; others may not.
    Failed(anyhow::Error),
    /// Every event would fail now.
    Unreachable(anyhow::Error),
}

impl Webhook {
    /// Posts to the other end of `post`.
    pub(crate) fn new(sink: String, post: Post, format: Format, letters: DeadLetters) -> Self {
        Self { sink, post, format, letters, waiting: Vec::new(), asked: None }
    }

    /// The event to post at `now`: of those that are due the one with the fewest failures, the oldest first. None of an
    /// alert whose earlier event waits.
    fn next(&self, now: Time) -> Option<usize> {
        let mut seen = HashSet::new();
        let first =
            self.waiting.iter().enumerate().filter(|(_, one)| seen.insert(one.event.0.fingerprint.as_str()));
        let due = first.filter(|(_, one)| one.due <= now);
        due.min_by_key(|(_, one)| one.failures).map(|(index, _)| index)
    }

    fn deliver_one(&mut self, event: &AlertEvent) -> Outcome {
        let line = match self.format.alert_line(&event.0, event.1) {
            Ok(line) => line,
            Err(error) => return Outcome::Failed(error.into()),
        };
        let key = idempotency_key(&event.0);
        let answer = match self.post.send(&line, &[("idempotency-key", key.clone())]) {
            Ok(answer) => answer,
            Err(NoAnswer::Unreachable(error)) => return Outcome::Unreachable(error),
            Err(NoAnswer::Slow(error)) => return Outcome::Failed(error),
        };
        if answer.status.is_success() {
            return Outcome::Delivered;
        }
        let error = self.error(&answer);
        match answer.status.as_u16() {
            408 | 425 => Outcome::Failed(error),
            429 => {
                self.asked = answer.retry_after;
                Outcome::Unreachable(error)
            }
            400..=499 => {
                self.bury(&line, &key, &answer);
                Outcome::Refused
            }
            500..=599 if answer.retry_after.is_none() => Outcome::Failed(error),
            // A redirect is not followed; it may be gone with the next try, as a portal's is.
            _ => {
                self.asked = answer.retry_after;
                Outcome::Unreachable(error)
            }
        }
    }

    fn error(&self, answer: &Answer) -> anyhow::Error {
        let receiver = self.post.shown();
        match &answer.moved_to {
            Some(to) => anyhow!("{receiver}: {}: redirects to {to}, which is not followed", answer.status),
            None => anyhow!("{receiver}: {}: {}", answer.status, answer.said),
        }
    }

    /// Puts an event to the dead letters.
    fn bury(&mut self, event: &str, key: &str, answer: &Answer) {
        let receiver = self.post.shown();
        let reason = format!("{}: {}", answer.status, answer.said);
        let (sink, status) = (self.sink.as_str(), answer.status.as_u16());
        let letter = Letter { sink, receiver: &receiver, status, reason: &reason, key, event };
        let written = self.letters.add(&letter);
        let kept = match &written {
            Ok(()) => "it is among the dead letters".to_owned(),
            Err(error) => format!("it is lost, as the file of dead letters cannot be written: {error}"),
        };
        tracing::error!(sink, receiver, reason, "the receiver refuses an event for good; {kept}");
    }
}

impl Transport<AlertEvent> for Webhook {
    fn take(&mut self, event: AlertEvent) -> Taken {
        self.waiting.push(Waiting { event, failures: 0, due: Time::ZERO });
        Taken::Kept
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < AHEAD
    }

    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
        self.asked = None;
        if self.letters.any() {
            self.letters.count();
        }
        let (mut failed, mut taken) = (0, false);
        while let Some(index) = self.next(clock::now()) {
            let event = self.waiting[index].event.clone();
            match self.deliver_one(&event) {
                Outcome::Delivered => {
                    self.waiting.remove(index);
                    counters.delivered(1);
                    (failed, taken) = (0, true);
                }
                Outcome::Refused => {
                    self.waiting.remove(index);
                    counters.lost(1);
                    (failed, taken) = (0, true);
                }
                Outcome::Unreachable(error) => return Err(error),
                Outcome::Failed(error) => {
                    let one = &mut self.waiting[index];
                    one.failures = one.failures.saturating_add(1);
                    failed += 1;
                    if failed >= IN_A_ROW && !taken {
                        // They wait with all the others, and others come first the next time.
                        let now = clock::now();
                        self.waiting.iter_mut().for_each(|one| one.due = one.due.min(now));
                        return Err(error);
                    }
                    let doubled = FIRST_PAUSE * 2_u32.saturating_pow(one.failures.min(10) - 1);
                    let pause = doubled.min(LONGEST_PAUSE);
                    one.due = clock::now() + pause;
                    counters.errors.inc();
                    let (sink, error) = (&self.sink, error_chain::format_error_chain(&error));
                    tracing::warn!(sink, error, ?pause, "an event was not delivered; it is posted again");
                    if failed >= IN_A_ROW {
                        // The receiver took some: whether it is the cause shows in the next round.
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        // What failed once is not waited for when the sink is closed, nor is what follows that.
        let mut seen = HashSet::new();
        let mut first = self.waiting.iter().filter(|one| seen.insert(one.event.0.fingerprint.as_str()));
        first.all(|one| one.failures > 0)
    }

    fn due(&self) -> Option<Duration> {
        let now = clock::now();
        let next = self.waiting.iter().map(|one| one.due.since(now)).min();
        let count = self.letters.any().then_some(COUNT_INTERVAL);
        next.into_iter().chain(count).min().map(|wait| wait.max(Duration::from_millis(1)))
    }

    fn asked_pause(&self) -> Option<Duration> {
        self.asked
    }
}

/// The key by which a receiver knows an event that it has seen: fingerprint, start and state, and for a repeat, whose
/// body is another one, how many seconds after the start it was made.
fn idempotency_key(alert: &Alert) -> String {
    let start = alert.starts_at_unix.div_euclid(1_000_000);
    let key = format!("{}-{start}-{}", alert.fingerprint, alert.state.name());
    let repeat = alert.time.since(alert.starts_at).as_secs();
    match alert.state {
        AlertState::Firing if alert.time != alert.starts_at => format!("{key}-{repeat}"),
        _ => key,
    }
}
