//! Alerts to an Alertmanager (API v2). It ends what is not told again, so all that fires is posted every
//! minute (unless configured otherwise), with an end four such times ahead; what has ended is posted with
//! its real end.
//!
//! An alert is kept here until Alertmanager has heard its last word: however long it is away, it gets the
//! newest state of each alert, and no end is lost.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    AlertEvent,
    eve::Moment,
    post::Post,
    single::Failure,
    words::{summary, threshold, value},
    worker::{Counters, Taken, Transport},
};
use crate::{
    clock,
    engine::{
        event::{Alert, AlertState},
        inputs::Inputs,
        settings::unit,
        time::{Epoch, Time},
    },
    fault,
};

/// The end that is posted for what fires, in repeats: so long it stays without a further word of ours.
const AHEAD: u32 = 4;
/// Alerts that are kept; more than this at once is a mistake in a rule.
const MOST: usize = 10_000;
/// Alerts in one request.
const BATCH: usize = 500;

/// An Alertmanager.
pub(super) struct Alertmanager {
    post: Post,
    /// Labels that every alert gets.
    labels: BTreeMap<String, String>,
    /// How often what fires is posted.
    every: Duration,
    /// By fingerprint and beginning.
    alerts: BTreeMap<(String, Time), Known>,
    /// When what fires is posted again.
    next: Time,
}

/// An alert that fires, or whose end Alertmanager has not heard of.
struct Known {
    /// As they were at its beginning: with other labels it would be another alert.
    labels: BTreeMap<String, String>,
    annotations: Value,
    starts_at: String,
    /// Its real end.
    ends_at: Option<String>,
    /// Events that are told when this is posted.
    untold: usize,
}

impl Alertmanager {
    /// Posts to the Alertmanager at the other end of `post`.
    pub(super) fn new(post: Post, labels: BTreeMap<String, String>, every: Duration) -> Self {
        Self { post, labels, every, alerts: BTreeMap::new(), next: clock::now() }
    }

    /// Posts the alerts of these names, and books what is told by it.
    fn tell(&mut self, keys: &[(String, Time)], counters: &Counters) -> anyhow::Result<()> {
        let soon = end(clock::epoch(), clock::now() + self.every * AHEAD);
        let body: Vec<Value> =
            keys.iter().filter_map(|key| self.alerts.get(key)).map(|known| known.json(&soon)).collect();
        let refused = match self.post.send(&Value::from(body).to_string()) {
            Ok(()) => false,
            Err(Failure::Again(error)) => return Err(error),
            // Which of them is to blame shows when they come one by one.
            Err(Failure::Refused(_)) if keys.len() > 1 => {
                return keys.iter().try_for_each(|key| self.tell(std::slice::from_ref(key), counters));
            }
            Err(Failure::Refused(error)) => {
                tracing::error!(error = fault::told(&error), "Alertmanager refuses an alert, which is lost");
                true
            }
        };
        for key in keys {
            let Some(known) = self.alerts.get_mut(key) else { continue };
            let untold = std::mem::take(&mut known.untold);
            let ended = known.ends_at.is_some();
            if refused {
                counters.lost(untold)
            } else {
                counters.delivered(untold)
            }
            if ended || refused {
                self.alerts.remove(key);
            }
        }
        Ok(())
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
            starts_at: Moment::of(alert.starts_at, epoch).rfc3339(),
            ends_at: None,
            untold: 0,
        });
        known.annotations = annotations(&alert);
        if alert.state == AlertState::Resolved {
            known.ends_at = Some(end(epoch, alert.ends_at.unwrap_or(alert.time)));
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
        let due = self.alerts.iter().filter(|(_, known)| all || known.untold > 0);
        let keys: Vec<_> = due.map(|(key, _)| key.clone()).collect();
        for keys in keys.chunks(BATCH) {
            self.tell(keys, counters)?;
        }
        if all {
            self.next = now + self.every;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.alerts.values().all(|known| known.untold == 0)
    }

    fn due(&self) -> Option<Duration> {
        let wait = self.next.since(clock::now()).max(Duration::from_millis(1));
        (!self.alerts.is_empty()).then_some(wait)
    }
}

impl Known {
    fn json(&self, soon: &str) -> Value {
        json!({
            "labels": self.labels,
            "annotations": self.annotations,
            "startsAt": self.starts_at,
            "endsAt": self.ends_at.as_deref().unwrap_or(soon),
        })
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
        ("subject", alert.subject.to_string()),
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
        "condition": &*alert.decided.name,
        "unit": unit(&alert.decided.name),
        "value": value(alert),
        "threshold": threshold(alert),
        "group": alert.group.clone().unwrap_or_default(),
        "network": alert.matched_network.clone().unwrap_or_default(),
        "ports": list(alert.ports.iter().map(u16::to_string).collect()),
        "destinations": list(alert.destinations.iter().map(|(ip, flows)| format!("{ip} ({flows})")).collect()),
        "bytes_up": if alert.tells(Inputs::BYTES) { alert.sums.up.bytes.to_string() } else { "not recorded".to_owned() },
        "attack": list(alert.attack.clone()),
        "complete": alert.complete.to_string(),
        "like_a_relay": alert.relay.map(|relay| relay.to_string()).unwrap_or_default(),
    })
}

fn end(epoch: Epoch, time: Time) -> String {
    Moment::of(time, epoch).rfc3339()
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
