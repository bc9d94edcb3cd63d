//! Alerts to an Alertmanager (API v2).
//!
//! Firing alerts are posted every minute, unless configured otherwise, without an end. An Alertmanager
//! resolves an alert by its own clock (`resolve_timeout`) if the alert is not posted again. A resolved alert
//! is posted once with its end.
//!
//! The two clocks may differ. The start of an alert is fixed and is posted as it is. The Alertmanager refuses
//! a start that is too far ahead of its clock. The alert is then posted again with the start by the clock of
//! the Alertmanager, which the `Date` of its responses reports. An end is always posted by that clock,
//! because an end in the future would not resolve the alert.
//!
//! An alert stays tracked until the Alertmanager has accepted its last event. After an outage the
//! Alertmanager receives the newest state of each alert, and no end is lost. A refusal never removes a firing
//! alert.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    AlertEvent,
    eve::common::EveTimestamp,
    http_client::{HttpClient, ReceiverResponse, RequestError},
    summary::{summary, threshold, value},
    worker::{Acceptance, SinkCounters, Transport},
};
use crate::metrics::ReceiverCounters;
use mailflow_engine::{
    event::{Alert, AlertState},
    flow::RecordFields,
    settings::unit,
    time::{Time, WallClockOffset},
};
use mailflow_kernel::clock;

/// Largest number of tracked alerts. More at once indicate a mistake in a rule.
const MAX_TRACKED_ALERTS: usize = 10_000;
/// Largest number of alerts in one request.
const MAX_ALERTS_PER_REQUEST: usize = 500;
/// Longest pause between two posts of a refused alert, in refresh intervals.
const MAX_RETRY_INTERVALS: u32 = 10;
/// Nanoseconds of a second.
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Transport to one Alertmanager.
pub(crate) struct Alertmanager {
    sink: String,
    client: HttpClient,
    /// Labels added to every alert.
    labels: BTreeMap<String, String>,
    /// Interval between two posts of the firing alerts.
    refresh_interval: Duration,
    receiver: ReceiverCounters,
    /// Tracked alerts by fingerprint and start.
    alerts: BTreeMap<AlertKey, TrackedAlert>,
    /// Time of the next post of all firing alerts.
    next_refresh: Time,
    /// Offset of the receiver's clock from the local clock, in nanoseconds: 0 if they agree, `None` if
    /// unknown.
    clock_offset: Option<i128>,
}

/// Fingerprint and start of an alert.
type AlertKey = (String, Time);

/// Alert that fires, or whose end the Alertmanager has not accepted yet.
struct TrackedAlert {
    /// Labels at the start of the alert. Other labels would make another alert.
    labels: BTreeMap<String, String>,
    annotations: Value,
    /// Start, in nanoseconds since 1970 by the local clock.
    starts_at: i128,
    /// End by the local clock.
    ends_at: Option<i128>,
    /// Number of events that the next successful post delivers.
    pending_events: usize,
    form: AlertForm,
    /// Consecutive refusals of all forms.
    refusals: u32,
    /// Time of the next post of a refused alert.
    retry_at: Time,
}

/// Form of a posted alert. Each form removes a possible reason for refusing the previous one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AlertForm {
    /// All annotations, and the start by the local clock.
    Full,
    /// Start by the receiver's clock. Without a start the Alertmanager uses the time of receipt.
    CorrectedStart(Option<i128>),
    /// Corrected start, and no annotation except the summary.
    Minimal(Option<i128>),
}

impl Alertmanager {
    /// Creates the transport to the Alertmanager that `client` posts to.
    pub(crate) fn new(
        sink: String,
        client: HttpClient,
        labels: BTreeMap<String, String>,
        refresh_interval: Duration,
        receiver: ReceiverCounters,
    ) -> Self {
        receiver.refused.set(0);
        let (alerts, next_refresh) = (BTreeMap::new(), clock::now());
        Self { sink, client, labels, refresh_interval, receiver, alerts, next_refresh, clock_offset: None }
    }

    /// Posts the alerts of these keys and counts the delivered events.
    fn post_alerts(&mut self, keys: &[AlertKey], counters: &SinkCounters) -> anyhow::Result<()> {
        let response = self.request(keys)?;
        if response.status.is_success() {
            if self.apply_response_clock(keys, response.clock_offset) {
                // The clock offset is known now: posts the ends again by the receiver's clock.
                let retried = self.request(keys)?;
                if !retried.status.is_success() {
                    return Err(self.error(&retried));
                }
            }
            keys.iter().for_each(|key| self.mark_delivered(key, counters));
            return Ok(());
        }
        match response.status.as_u16() {
            // The content of the request is wrong, not its sender, URL or time.
            400 | 413 | 415 | 422 => {}
            _ => return Err(self.error(&response)),
        }
        match keys {
            [] => Ok(()),
            [key] => self.handle_refusal(key, &response, counters),
            // Halving the request finds the alert that is refused.
            keys => {
                let (first_half, second_half) = keys.split_at(keys.len() / 2);
                self.post_alerts(first_half, counters)?;
                self.post_alerts(second_half, counters)
            }
        }
    }

    /// Posts the alerts of these keys in one request.
    fn request(&mut self, keys: &[AlertKey]) -> anyhow::Result<ReceiverResponse> {
        let tracked = keys.iter().filter_map(|key| self.alerts.get(key));
        let body: Vec<Value> = tracked.map(|tracked| tracked.json(self.clock_offset.unwrap_or(0))).collect();
        let response =
            self.client.send(&Value::from(body).to_string(), &[]).map_err(RequestError::into_error)?;
        if !response.status.is_success() {
            self.update_clock_offset(response.clock_offset);
        }
        Ok(response)
    }

    /// Records the clock offset of a successful response. Returns true if an end that was just posted is in
    /// the future by that clock.
    fn apply_response_clock(&mut self, keys: &[AlertKey], offset: Option<i128>) -> bool {
        let previous_offset = self.clock_offset.unwrap_or(0);
        self.update_clock_offset(offset);
        let new_offset = self.clock_offset.unwrap_or(0);
        new_offset < previous_offset
            && keys.iter().filter_map(|key| self.alerts.get(key)).any(|tracked| tracked.ends_at.is_some())
    }

    /// Records the clock offset and warns of a difference.
    fn update_clock_offset(&mut self, offset: Option<i128>) {
        let Some(offset) = offset else { return };
        let changed = self.clock_offset.is_none_or(|previous| (previous - offset).abs() > NANOS_PER_SECOND);
        let differed_before = self.clock_offset.is_some_and(|previous| previous != 0);
        self.clock_offset = Some(offset);
        let seconds = (offset as f64 / NANOS_PER_SECOND as f64).round();
        self.receiver.clock_offset.set(seconds);
        let sink = &self.sink;
        match (changed, offset) {
            (true, 0) if differed_before => {
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

    /// Counts the events of an alert that the Alertmanager has accepted.
    fn mark_delivered(&mut self, key: &AlertKey, counters: &SinkCounters) {
        let Some(tracked) = self.alerts.get_mut(key) else { return };
        counters.count_delivered(std::mem::take(&mut tracked.pending_events));
        tracked.refusals = 0;
        if tracked.ends_at.is_some() {
            self.alerts.remove(key);
        }
    }

    /// Posts a refused alert again in the next form. A firing alert that is refused in every form is posted
    /// again later. A refused end is dropped: without further posts the Alertmanager resolves the alert
    /// itself.
    fn handle_refusal(
        &mut self,
        key: &AlertKey,
        response: &ReceiverResponse,
        counters: &SinkCounters,
    ) -> anyhow::Result<()> {
        self.receiver.refusals.inc();
        let (sink, error) = (self.sink.clone(), self.error(response).to_string());
        let offset = self.clock_offset;
        let Some(tracked) = self.alerts.get_mut(key) else { return Ok(()) };
        let start = offset.map(|offset| (tracked.starts_at + offset).min(clock::unix_nanos() + offset));
        tracked.form = match tracked.form {
            AlertForm::Full => AlertForm::CorrectedStart(start),
            AlertForm::CorrectedStart(start) => AlertForm::Minimal(start),
            AlertForm::Minimal(_) => {
                if tracked.ends_at.is_some() {
                    counters.count_lost(std::mem::take(&mut tracked.pending_events));
                    self.alerts.remove(key);
                    tracing::error!(
                        sink,
                        error,
                        "the receiver refuses the end of an alert, which is not posted again"
                    );
                    return Ok(());
                }
                tracked.refusals = tracked.refusals.saturating_add(1);
                tracked.form = AlertForm::CorrectedStart(start);
                tracked.retry_at =
                    clock::now() + self.refresh_interval * tracked.refusals.min(MAX_RETRY_INTERVALS);
                let fingerprint = &key.0;
                if tracked.refusals == 1 {
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
        tracing::debug!(sink, error, form = ?tracked.form, "the receiver refuses an alert; it is posted in another form");
        self.post_alerts(std::slice::from_ref(key), counters)
    }

    /// Returns the error that a refusing response means.
    fn error(&self, response: &ReceiverResponse) -> anyhow::Error {
        let receiver = self.client.display_name();
        match &response.redirect_origin {
            Some(to) => {
                anyhow::anyhow!("{receiver}: {}: redirects to {to}, which is not followed", response.status)
            }
            None => anyhow::anyhow!("{receiver}: {}: {}", response.status, response.body_excerpt),
        }
    }

    /// Returns the alerts to post at `now`. Refused alerts are separate, so that they do not delay the
    /// others.
    fn due_alerts(&self, now: Time) -> (Vec<AlertKey>, Vec<AlertKey>) {
        let all = now >= self.next_refresh;
        let due = self.alerts.iter().filter(|(_, tracked)| match tracked.refusals {
            0 => all || tracked.pending_events > 0,
            _ => tracked.ends_at.is_some() || now >= tracked.retry_at,
        });
        let (accepted, refused): (Vec<_>, Vec<_>) = due.partition(|(_, tracked)| tracked.refusals == 0);
        let keys =
            |found: Vec<(&AlertKey, &TrackedAlert)>| found.into_iter().map(|(key, _)| key.clone()).collect();
        (keys(accepted), keys(refused))
    }
}

impl Transport<AlertEvent> for Alertmanager {
    fn accept(&mut self, (alert, epoch): AlertEvent) -> Acceptance {
        let key = (alert.fingerprint.clone(), alert.starts_at);
        if self.alerts.len() >= MAX_TRACKED_ALERTS && !self.alerts.contains_key(&key) {
            return Acceptance::Dropped;
        }
        let tracked = self.alerts.entry(key).or_insert_with(|| TrackedAlert {
            labels: labels(&alert, &self.labels),
            annotations: Value::Null,
            starts_at: alert.starts_at_unix,
            ends_at: None,
            pending_events: 0,
            form: AlertForm::Full,
            refusals: 0,
            retry_at: Time::ZERO,
        });
        tracked.annotations = annotations(&alert);
        if alert.state == AlertState::Resolved {
            tracked.ends_at = Some(epoch.unix_nanos(alert.ends_at.unwrap_or(alert.time)));
        }
        tracked.pending_events += 1;
        Acceptance::Queued
    }

    fn can_accept(&self) -> bool {
        true
    }

    fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
        let now = clock::now();
        let all = now >= self.next_refresh;
        let (accepted, refused) = self.due_alerts(now);
        let mut result = Ok(());
        for keys in accepted.chunks(MAX_ALERTS_PER_REQUEST).chain(refused.chunks(1)) {
            result = self.post_alerts(keys, counters);
            if result.is_err() {
                break;
            }
        }
        let refused = self.alerts.values().filter(|tracked| tracked.refusals > 0).count();
        self.receiver.refused.set(i64::try_from(refused).unwrap_or(i64::MAX));
        result?;
        if all {
            self.next_refresh = now + self.refresh_interval;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        // Closing the sink does not wait for refused alerts: the next process posts them.
        self.alerts.values().all(|tracked| tracked.pending_events == 0 || tracked.refusals > 0)
    }

    fn due(&self) -> Option<Duration> {
        let wait = self.next_refresh.since(clock::now()).max(Duration::from_millis(1));
        (!self.alerts.is_empty()).then_some(wait)
    }
}

impl TrackedAlert {
    /// Returns the JSON for an Alertmanager whose clock is ahead of the local clock by `offset`.
    fn json(&self, offset: i128) -> Value {
        let mut start = match self.form {
            AlertForm::Full => Some(self.starts_at),
            AlertForm::CorrectedStart(start) | AlertForm::Minimal(start) => start,
        };
        let mut alert = json!({ "labels": self.labels });
        alert["annotations"] = match self.form {
            AlertForm::Minimal(_) => json!({ "summary": self.annotations["summary"] }),
            _ => self.annotations.clone(),
        };
        if let Some(end) = self.ends_at {
            // An end in the future has no effect, and an end before the start is refused.
            let now = clock::unix_nanos() + offset;
            let end = (end + offset).max(start.unwrap_or(i128::MIN)).min(now);
            alert["endsAt"] = format_unix_nanos(end).into();
            start = Some(start.unwrap_or(end).min(end));
        }
        if let Some(start) = start {
            alert["startsAt"] = format_unix_nanos(start).into();
        }
        alert
    }
}

/// Returns the labels that identify an alert and that routes match.
fn labels(alert: &Alert, extra_labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = extra_labels.clone();
    let own = alert.labels.iter().map(|(name, value)| (label_name(name), value.clone()));
    labels.extend(own.filter(|(_, value)| !value.is_empty()));
    // An alert about a server keeps the client of its start, because the newest client changes.
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

/// Returns a valid label name of Alertmanager: letters, digits and underscores, no digit first.
fn label_name(name: &str) -> String {
    let mut valid_name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if !valid_name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        valid_name.insert(0, '_');
    }
    valid_name
}

/// Returns the annotations of an alert.
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

/// Formats nanoseconds since 1970 as RFC 3339.
fn format_unix_nanos(nanos: i128) -> String {
    EveTimestamp::of(Time::ZERO, WallClockOffset::from_unix_nanos(nanos)).rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_names_are_valid_for_prometheus() {
        for (name, valid_name) in
            [("team", "team"), ("cost-centre", "cost_centre"), ("1st", "_1st"), ("", "_"), ("ä", "_")]
        {
            assert_eq!(label_name(name), valid_name);
        }
    }
}
