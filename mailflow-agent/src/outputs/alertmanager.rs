//! Alerts to an Alertmanager (API v2).
//!
//! What fires is posted every minute, unless configured otherwise, without an end: an Alertmanager ends by its own
//! clock (`resolve_timeout`) what it does not hear of again. What has ended is posted with its end, once.
//!
//! The two clocks may differ. The start of an alert is fixed, and is posted as it is. Where the Alertmanager refuses
//! it, because by its clock the start is too far ahead, it is posted again with the start by the Alertmanager's clock,
//! which the `Date` of its answers tells. An end is always posted by that clock: one that lies ahead would not end the
//! alert.
//!
//! An alert is kept here until the Alertmanager has taken its last word: however long it is away, it gets the newest
//! state of each alert, and no end is lost. An alert that fires is never given up because of a refusal.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    AlertEvent,
    eve::common::Moment,
    http_client::{Answer, NoAnswer, Post},
    summary::{summary, threshold, value},
    worker::{Counters, Taken, Transport},
};
use crate::metrics::ReceiverCounters;
use mailflow_engine::{
    event::{Alert, AlertState},
    flow::RecordFields,
    settings::unit,
    time::{Time, WallClockOffset},
};
use mailflow_kernel::clock;

/// Alerts that are kept; more than this at once is a mistake in a rule.
const MOST: usize = 10_000;
/// Alerts in one request.
const BATCH: usize = 500;
/// Most intervals between two tries of an alert that is refused.
const LONGEST_PAUSE: u32 = 10;
/// Nanoseconds of a second.
const SECOND: i128 = 1_000_000_000;

/// An Alertmanager.
pub(crate) struct Alertmanager {
    sink: String,
    post: Post,
    /// Labels that every alert gets.
    labels: BTreeMap<String, String>,
    /// How often what fires is posted.
    every: Duration,
    receiver: ReceiverCounters,
    /// By fingerprint and beginning.
    alerts: BTreeMap<Key, Known>,
    /// When what fires is posted again.
    next: Time,
    /// By how much its clock is ahead of ours, in nanoseconds; 0 where they agree, none as long as it is not known.
    clock_offset: Option<i128>,
}

/// Fingerprint and beginning.
type Key = (String, Time);

/// An alert that fires, or whose end the Alertmanager has not heard of.
struct Known {
    /// As they were at its beginning: with other labels it would be another alert.
    labels: BTreeMap<String, String>,
    annotations: Value,
    /// Its start, in nanoseconds since 1970 by our clock.
    starts_at: i128,
    /// Its end by our clock.
    ends_at: Option<i128>,
    /// Events that are told when this is posted.
    untold: usize,
    form: Form,
    /// Refusals in a row, in every form.
    refusals: u32,
    /// When it is posted again although it was refused.
    retry: Time,
}

/// How an alert is posted: each form corrects what the one before may be refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As it is.
    Whole,
    /// With this start by the Alertmanager's clock; none lets it take the moment at which it receives the alert.
    Corrected(Option<i128>),
    /// The same without annotations but the sentence.
    Short(Option<i128>),
}

impl Alertmanager {
    /// Posts to the Alertmanager at the other end of `post`.
    pub(crate) fn new(
        sink: String,
        post: Post,
        labels: BTreeMap<String, String>,
        every: Duration,
        receiver: ReceiverCounters,
    ) -> Self {
        receiver.refused.set(0);
        let (alerts, next) = (BTreeMap::new(), clock::now());
        Self { sink, post, labels, every, receiver, alerts, next, clock_offset: None }
    }

    /// Posts the alerts of these names, and books what is told by it.
    fn tell(&mut self, keys: &[Key], counters: &Counters) -> anyhow::Result<()> {
        let answer = self.request(keys)?;
        if answer.status.is_success() {
            if self.heard(keys, answer.clock_offset) {
                // Its clock is known by now: the ends are posted once more, by that.
                let again = self.request(keys)?;
                if !again.status.is_success() {
                    return Err(self.error(&again));
                }
            }
            keys.iter().for_each(|key| self.told(key, counters));
            return Ok(());
        }
        match answer.status.as_u16() {
            // These, and not their sender, its place or its time, are what is wrong.
            400 | 413 | 415 | 422 => {}
            _ => return Err(self.error(&answer)),
        }
        match keys {
            [] => Ok(()),
            [key] => self.refused(key, &answer, counters),
            // Which of them is to blame shows when they come in smaller parts.
            keys => {
                let (one, other) = keys.split_at(keys.len() / 2);
                self.tell(one, counters)?;
                self.tell(other, counters)
            }
        }
    }

    fn request(&mut self, keys: &[Key]) -> anyhow::Result<Answer> {
        let known = keys.iter().filter_map(|key| self.alerts.get(key));
        let body: Vec<Value> = known.map(|known| known.json(self.clock_offset.unwrap_or(0))).collect();
        let answer = self.post.send(&Value::from(body).to_string(), &[]).map_err(NoAnswer::into_error)?;
        if !answer.status.is_success() {
            self.note_clock(answer.clock_offset);
        }
        Ok(answer)
    }

    /// Takes the clock that a successful answer tells. Returns true if by that an end that was just posted lies ahead.
    fn heard(&mut self, keys: &[Key], offset: Option<i128>) -> bool {
        let before = self.clock_offset.unwrap_or(0);
        self.note_clock(offset);
        let after = self.clock_offset.unwrap_or(0);
        after < before
            && keys.iter().filter_map(|key| self.alerts.get(key)).any(|known| known.ends_at.is_some())
    }

    /// Notes by how much the clocks differ, and warns of it.
    fn note_clock(&mut self, offset: Option<i128>) {
        let Some(offset) = offset else { return };
        let moved = self.clock_offset.is_none_or(|known| (known - offset).abs() > SECOND);
        let differed = self.clock_offset.is_some_and(|known| known != 0);
        self.clock_offset = Some(offset);
        let seconds = (offset as f64 / SECOND as f64).round();
        self.receiver.clock_offset.set(seconds);
        let sink = &self.sink;
        match (moved, offset) {
            (true, 0) if differed => {
                tracing::info!(sink, "the clocks of the receiver and of this machine agree again")
            }
            (true, offset) if offset != 0 => tracing::warn!(
                sink,
                seconds,
                "the receiver's clock differs from this machine's; ends of alerts are posted by the receiver's clock"
            ),
            _ => {}
        }
    }

    /// Books an alert that the Alertmanager has taken.
    fn told(&mut self, key: &Key, counters: &Counters) {
        let Some(known) = self.alerts.get_mut(key) else { return };
        counters.delivered(std::mem::take(&mut known.untold));
        known.refusals = 0;
        if known.ends_at.is_some() {
            self.alerts.remove(key);
        }
    }

    /// Posts an alert again in the next form that may be taken. One that fires and is refused in every form is posted
    /// again later; an end is given up, as without further word the Alertmanager ends the alert by itself.
    fn refused(&mut self, key: &Key, answer: &Answer, counters: &Counters) -> anyhow::Result<()> {
        self.receiver.refusals.inc();
        let (sink, error) = (self.sink.clone(), self.error(answer).to_string());
        let offset = self.clock_offset;
        let Some(known) = self.alerts.get_mut(key) else { return Ok(()) };
        let start = offset.map(|offset| (known.starts_at + offset).min(clock::unix_nanos() + offset));
        known.form = match known.form {
            Form::Whole => Form::Corrected(start),
            Form::Corrected(start) => Form::Short(start),
            Form::Short(_) => {
                if known.ends_at.is_some() {
                    counters.lost(std::mem::take(&mut known.untold));
                    self.alerts.remove(key);
                    tracing::error!(
                        sink,
                        error,
                        "the receiver refuses the end of an alert, which is not posted again"
                    );
                    return Ok(());
                }
                known.refusals = known.refusals.saturating_add(1);
                known.form = Form::Corrected(start);
                known.retry = clock::now() + self.every * known.refusals.min(LONGEST_PAUSE);
                let fingerprint = &key.0;
                if known.refusals == 1 {
                    tracing::error!(
                        sink,
                        fingerprint,
                        error,
                        "the receiver refuses an alert; it is posted again"
                    );
                }
                return Ok(());
            }
        };
        tracing::debug!(sink, error, form = ?known.form, "the receiver refuses an alert; it is posted in another form");
        self.tell(std::slice::from_ref(key), counters)
    }

    fn error(&self, answer: &Answer) -> anyhow::Error {
        let receiver = self.post.shown();
        match &answer.moved_to {
            Some(to) => {
                anyhow::anyhow!("{receiver}: {}: redirects to {to}, which is not followed", answer.status)
            }
            None => anyhow::anyhow!("{receiver}: {}: {}", answer.status, answer.said),
        }
    }

    /// The alerts to post at `now`: those that are refused by themselves, so that they keep nothing from the others.
    fn due(&self, now: Time) -> (Vec<Key>, Vec<Key>) {
        let all = now >= self.next;
        let due = self.alerts.iter().filter(|(_, known)| match known.refusals {
            0 => all || known.untold > 0,
            _ => known.ends_at.is_some() || now >= known.retry,
        });
        let (clean, refused): (Vec<_>, Vec<_>) = due.partition(|(_, known)| known.refusals == 0);
        let keys = |found: Vec<(&Key, &Known)>| found.into_iter().map(|(key, _)| key.clone()).collect();
        (keys(clean), keys(refused))
    }
}

impl Transport<AlertEvent> for Alertmanager {
    fn take(&mut self, (alert, epoch): AlertEvent) -> Taken {
        let key = (alert.fingerprint.clone(), alert.starts_at);
        if self.alerts.len() >= MOST && !self.alerts.contains_key(&key) {
            return Taken::Dropped;
        }
        let known = self.alerts.entry(key).or_insert_with(|| Known {
            labels: labels(&alert, &self.labels),
            annotations: Value::Null,
            starts_at: alert.starts_at_unix,
            ends_at: None,
            untold: 0,
            form: Form::Whole,
            refusals: 0,
            retry: Time::ZERO,
        });
        known.annotations = annotations(&alert);
        if alert.state == AlertState::Resolved {
            known.ends_at = Some(epoch.unix_nanos(alert.ends_at.unwrap_or(alert.time)));
        }
        known.untold += 1;
        Taken::Kept
    }

    fn has_room(&self) -> bool {
        true
    }

    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
        let now = clock::now();
        let all = now >= self.next;
        let (clean, refused) = self.due(now);
        let mut result = Ok(());
        for keys in clean.chunks(BATCH).chain(refused.chunks(1)) {
            result = self.tell(keys, counters);
            if result.is_err() {
                break;
            }
        }
        let refused = self.alerts.values().filter(|known| known.refusals > 0).count();
        self.receiver.refused.set(i64::try_from(refused).unwrap_or(i64::MAX));
        result?;
        if all {
            self.next = now + self.every;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        // What is refused is not waited for when the sink is closed: the next process posts it.
        self.alerts.values().all(|known| known.untold == 0 || known.refusals > 0)
    }

    fn due(&self) -> Option<Duration> {
        let wait = self.next.since(clock::now()).max(Duration::from_millis(1));
        (!self.alerts.is_empty()).then_some(wait)
    }
}

impl Known {
    /// As it is posted to an Alertmanager whose clock is ahead of ours by `offset`.
    fn json(&self, offset: i128) -> Value {
        let mut start = match self.form {
            Form::Whole => Some(self.starts_at),
            Form::Corrected(start) | Form::Short(start) => start,
        };
        let mut alert = json!({ "labels": self.labels });
        alert["annotations"] = match self.form {
            Form::Short(_) => json!({ "summary": self.annotations["summary"] }),
            _ => self.annotations.clone(),
        };
        if let Some(end) = self.ends_at {
            // In its past, and not before the start: both are refused or have no effect otherwise.
            let now = clock::unix_nanos() + offset;
            let end = (end + offset).max(start.unwrap_or(i128::MIN)).min(now);
            alert["endsAt"] = moment(end).into();
            start = Some(start.unwrap_or(end).min(end));
        }
        if let Some(start) = start {
            alert["startsAt"] = moment(start).into();
        }
        alert
    }
}

/// What tells this alert from others, and what routes go by.
fn labels(alert: &Alert, more: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = more.clone();
    let own = alert.labels.iter().map(|(name, value)| (label_name(name), value.clone()));
    labels.extend(own.filter(|(_, value)| !value.is_empty()));
    // A server's alert keeps the client it began with: its newest one changes.
    labels.extend(alert.source.map(|source| ("source".to_owned(), source.to_string())));
    for (name, value) in [
        ("alertname", alert.rule.to_string()),
        ("subject", alert.group_key.to_string()),
        ("severity", alert.severity.name().to_owned()),
        ("fingerprint", alert.fingerprint.clone()),
    ] {
        labels.insert(name.to_owned(), value);
    }
    labels
}

/// A name that Alertmanager takes: letters, digits and underscores, no digit first.
fn label_name(name: &str) -> String {
    let mut fit: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if !fit.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        fit.insert(0, '_');
    }
    fit
}

fn annotations(alert: &Alert) -> Value {
    let list = |texts: Vec<String>| texts.join(", ");
    json!({
        "summary": summary(alert),
        "condition": &*alert.deciding_term.name,
        "unit": unit(&alert.deciding_term.name),
        "value": value(alert),
        "threshold": threshold(alert),
        "group": alert.group.clone().unwrap_or_default(),
        "network": alert.matched_network.clone().unwrap_or_default(),
        "ports": list(alert.ports.iter().map(u16::to_string).collect()),
        "destinations": list(alert.destinations.iter().map(|(ip, flows)| format!("{ip} ({flows})")).collect()),
        "bytes_up": if alert.tells(RecordFields::BYTES) { alert.sums.up.bytes.to_string() } else { "not recorded".to_owned() },
        "attack": list(alert.attack.clone()),
        "complete": alert.complete.to_string(),
        "like_a_relay": alert.relay.map(|relay| relay.to_string()).unwrap_or_default(),
    })
}

/// A moment in nanoseconds since 1970, as it is posted.
fn moment(nanos: i128) -> String {
    Moment::of(Time::ZERO, WallClockOffset::from_unix_nanos(nanos)).rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_names_are_prometheus() {
        for (name, fit) in
            [("team", "team"), ("cost-centre", "cost_centre"), ("1st", "_1st"), ("", "_"), ("ä", "_")]
        {
            assert_eq!(label_name(name), fit);
        }
    }
}
