//! Incident of one group under one rule, and its alerts.
//!
//! ```text
//!          condition holds            below resolve_below for resolve_after
//!  quiet -----------------> firing ------------------------------------------> quiet
//!         one alert: firing  |  ^   one alert: resolved
//!                            +--+ every repeat interval: firing again, same starts_at
//! ```
//!
//! Deadlines drive an incident, not ticks. The known events decide until when the value holds, so the times of the
//! next repeat and of the end are known as well. The size of the caller's clock steps does not change the alerts or
//! their times.
//!
//! The next incident needs a deciding flow later than the end of the last one. A record that arrives after the end
//! and is older than the end does not change the incident.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use mailflow_common::App;
use sha2::{Digest, Sha256};

use super::event::{Alert, AlertState, FlowTotals};
use crate::{
    eval::{
        group_key::{GroupKey, Source},
        window::value::TermValue,
    },
    flow::FlowRecord,
    network::Networks,
    rule::Rule,
    time::Time,
};

/// Most destinations of an alert.
const MAX_DESTINATIONS: usize = 10;

/// MITRE ATT&CK: exfiltration over an asymmetric encrypted non-C2 protocol.
const TECHNIQUE_ENCRYPTED: &str = "T1048.002";
/// MITRE ATT&CK: exfiltration over an unencrypted non-C2 protocol.
const TECHNIQUE_PLAIN: &str = "T1048.003";

/// Active incident.
#[derive(Clone, Debug)]
pub(crate) struct Incident {
    /// Time until which the value holds, by the known events.
    holds_until: Time,
    next_repeat: Time,
    /// Last alert, as it was sent, without its relay hint. Readers of the firing alerts share it.
    last_alert: Arc<Alert>,
    /// True if an aggregate alert reports the incident.
    is_aggregated: bool,
}

/// Action at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DueAction {
    /// No action until this time.
    Later(Time),
    /// Repeat the alert.
    Repeat,
    /// Resolve the alert.
    Resolve,
}

impl Incident {
    /// Starts an incident with its first alert, at `clock`.
    pub(crate) fn new(rule: &Rule, clock: Time, holds_until: Time, last_alert: Alert) -> Self {
        let (next_repeat, last_alert) = (last_alert.starts_at, Arc::new(last_alert));
        let mut incident = Self { holds_until, next_repeat, last_alert, is_aggregated: false };
        incident.schedule(rule, clock);
        incident
    }

    /// Extends the time until which the value holds.
    pub(crate) fn extend_until(&mut self, until: Time) {
        self.holds_until = self.holds_until.max(until);
    }

    /// Returns the time of the next action.
    pub(crate) fn deadline(&self, rule: &Rule) -> Time {
        (self.holds_until + rule.resolve_after).min(self.next_repeat)
    }

    /// Returns the action that is due at `clock`.
    pub(crate) fn due(&self, rule: &Rule, clock: Time) -> DueAction {
        if self.holds_until + rule.resolve_after <= clock {
            DueAction::Resolve
        } else if self.next_repeat <= clock {
            DueAction::Repeat
        } else {
            DueAction::Later(self.deadline(rule))
        }
    }

    /// Repeats the alert with the values at `clock`, and returns it.
    pub(crate) fn repeat(
        &mut self,
        rule: &Rule,
        clock: Time,
        deciding_term: usize,
        payload: AlertPayload,
    ) -> &mut Alert {
        self.schedule(rule, clock);
        self.set_terms(payload.terms, deciding_term);
        let alert = Arc::make_mut(&mut self.last_alert);
        alert.time = clock;
        // The windows may be empty before the resolve. Then the flows of the last alert stay.
        if !payload.flows.is_empty() && !self.is_aggregated {
            set_flows(alert, rule, payload.flows, payload.overflow);
            alert.is_truncated = payload.is_truncated;
        }
        alert
    }

    /// Resolves the alert, and returns it with the end of the incident. The flows of the last firing alert stay.
    pub(crate) fn resolve(
        mut self,
        clock: Time,
        deciding_term: usize,
        terms: Vec<TermValue>,
    ) -> (Alert, Time) {
        self.set_terms(terms, deciding_term);
        let (ends_at, last_alert) = (Some(self.holds_until), Arc::unwrap_or_clone(self.last_alert));
        (Alert { state: AlertState::Resolved, time: clock, ends_at, ..last_alert }, self.holds_until)
    }

    /// Returns an incident of a checkpoint.
    pub(crate) fn restored(
        last_alert: Alert,
        holds_until: Time,
        next_repeat: Time,
        is_aggregated: bool,
    ) -> Self {
        Self { holds_until, next_repeat, last_alert: Arc::new(last_alert), is_aggregated }
    }

    /// Marks the incident as reported by an aggregate alert, and drops its flows.
    pub(crate) fn mark_aggregated(&mut self) {
        self.is_aggregated = true;
        Arc::make_mut(&mut self.last_alert).flows = Vec::new();
    }

    /// Returns true if an aggregate alert reports the incident.
    pub(crate) fn is_aggregated(&self) -> bool {
        self.is_aggregated
    }

    /// Returns the start, the time until which the value holds, and the time of the next repeat.
    pub(crate) fn times(&self) -> (Time, Time, Time) {
        (self.last_alert.starts_at, self.holds_until, self.next_repeat)
    }

    /// Returns the last alert.
    pub(crate) fn last_alert(&self) -> &Arc<Alert> {
        &self.last_alert
    }

    /// Sets the term values and the deciding term of the alert.
    pub(crate) fn set_terms(&mut self, terms: Vec<TermValue>, deciding_term: usize) {
        let alert = Arc::make_mut(&mut self.last_alert);
        if let Some(deciding_term) = terms.get(deciding_term) {
            alert.deciding_term = deciding_term.clone();
        }
        alert.terms = terms;
    }

    /// Computes the next repeat: a multiple of the interval after the start.
    fn schedule(&mut self, rule: &Rule, clock: Time) {
        let interval = u64::try_from(rule.repeat_interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        let start = self.last_alert.starts_at.as_nanos();
        let passed = clock.as_nanos().saturating_sub(start) / interval;
        self.next_repeat = Time::from_nanos(start.saturating_add((passed + 1).saturating_mul(interval)));
    }
}

/// Values and flows of a group, for an alert.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlertPayload {
    /// Every term of the condition.
    pub(crate) terms: Vec<TermValue>,
    /// Newest contributing flows, oldest first.
    pub(crate) flows: Vec<Arc<FlowRecord>>,
    /// True if evidence of the group was overwritten.
    pub(crate) is_truncated: bool,
    /// True if packets of the group were counted as overflow.
    pub(crate) overflow: bool,
}

/// Returns the first alert of an incident that starts at `starts_at`, which is also given in wall-clock time.
pub(crate) fn firing_alert(
    rule: &Rule,
    group_key: &GroupKey,
    internal: &Networks,
    (starts_at, starts_at_unix): (Time, i128),
    deciding_term: usize,
    payload: AlertPayload,
) -> Alert {
    let newest = payload.flows.last().map(|record| record.flow.client());
    let source = group_key.source().or_else(|| newest.map(|client| Source::of(client, 128)));
    let address = newest.or_else(|| source.map(|source| source.network().addr()));
    let network = address.and_then(|address| internal.find(address));
    let deciding_term = payload.terms.get(deciding_term).cloned().unwrap_or_else(TermValue::none);
    let mut alert = Alert {
        rule: Arc::clone(&rule.name),
        rule_version: rule.version,
        fingerprint: fingerprint(&rule.name, group_key),
        state: AlertState::Firing,
        severity: rule.severity,
        time: starts_at,
        starts_at,
        starts_at_unix,
        ends_at: None,
        group_key: group_key.clone(),
        source,
        matched_network: network.map(|network| network.line.clone()),
        group: network.and_then(|network| network.group.clone()),
        role: network.and_then(|network| network.role),
        suppressed: None,
        deciding_term,
        terms: payload.terms,
        labels: rule.labels.clone(),
        attack: Vec::new(),
        first: starts_at,
        last: starts_at,
        ports: Vec::new(),
        apps: Vec::new(),
        destinations: Vec::new(),
        sums: FlowTotals::default(),
        flows: Vec::new(),
        complete: true,
        is_truncated: payload.is_truncated,
        relay: None,
    };
    set_flows(&mut alert, rule, payload.flows, payload.overflow);
    alert
}

/// Returns the fingerprint of a rule's alerts about a group: the first 16 hexadecimal digits of SHA-256 over both.
/// The length precedes each part, so that no other pair has equal bytes.
pub(crate) fn fingerprint(rule: &str, group_key: &GroupKey) -> String {
    let mut hash = Sha256::new();
    for part in [rule, &group_key.to_string()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Recomputes the fields of an alert that depend on its flows.
pub(crate) fn summarise_flows(alert: &mut Alert) {
    let (flows, attack, complete) = (std::mem::take(&mut alert.flows), alert.attack.clone(), alert.complete);
    set_flow_fields(alert, flows, false);
    (alert.attack, alert.complete) = (attack, complete && alert.complete);
}

fn set_flows(alert: &mut Alert, rule: &Rule, flows: Vec<Arc<FlowRecord>>, overflow: bool) {
    set_flow_fields(alert, flows, overflow);
    alert.attack = techniques(&rule.attack, &alert.apps);
}

fn set_flow_fields(alert: &mut Alert, flows: Vec<Arc<FlowRecord>>, overflow: bool) {
    let mut destinations = BTreeMap::new();
    let mut sums = FlowTotals::default();
    for record in &flows {
        let flow = &record.flow;
        *destinations.entry(flow.server()).or_insert(0) += 1;
        sums.up.packets += flow.up.packets;
        sums.up.bytes += flow.up.bytes;
        sums.down.packets += flow.down.packets;
        sums.down.bytes += flow.down.bytes;
        sums.messages += u64::from(flow.messages);
    }
    alert.destinations = destinations.into_iter().collect();
    // The sort is stable: destinations of equal counts stay in the order of addresses.
    alert.destinations.sort_by_key(|(_, count)| Reverse(*count));
    alert.destinations.truncate(MAX_DESTINATIONS);
    alert.sums = sums;
    alert.first = flows.iter().map(|record| record.flow.first).min().unwrap_or(alert.starts_at);
    alert.last = flows.iter().map(|record| record.time()).max().unwrap_or(alert.starts_at);
    alert.ports = sorted(flows.iter().map(|record| record.flow.key.server_port));
    alert.apps = sorted(flows.iter().map(|record| record.app));
    alert.complete = !overflow && flows.iter().all(|record| record.complete);
    alert.flows = flows;
}

/// Returns the techniques that apply. If a rule names both encrypted and unencrypted exfiltration, the applications
/// of the flows select among these two. All other techniques stay.
fn techniques(named: &[String], apps: &[App]) -> Vec<String> {
    let is_named = |id: &str| named.iter().any(|name| name == id);
    let names_both = is_named(TECHNIQUE_ENCRYPTED) && is_named(TECHNIQUE_PLAIN);
    let applies = |id: &str| match id {
        TECHNIQUE_ENCRYPTED if names_both => apps.iter().any(|app| app.encrypted()),
        TECHNIQUE_PLAIN if names_both => apps.iter().any(|app| !app.encrypted()),
        _ => true,
    };
    named.iter().filter(|id| applies(id)).cloned().collect()
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        eval::window::value::Value,
        fixture::{self, at},
        flow::delta::CounterDelta,
    };

    fn group_key(ip: &str) -> GroupKey {
        GroupKey::Source(Source::of(ip.parse().unwrap(), 64))
    }

    fn value(number: u64) -> TermValue {
        let (name, window) = ("count".into(), Duration::from_secs(3_600));
        TermValue {
            name,
            window,
            value: Value::Exactly(number),
            threshold: 10,
            scale: 1,
            holds: number >= 10,
        }
    }

    fn payload(number: u64, flows: Vec<Arc<FlowRecord>>) -> AlertPayload {
        AlertPayload { terms: vec![value(number)], flows, ..AlertPayload::default() }
    }

    fn last_alert(flows: Vec<Arc<FlowRecord>>) -> Alert {
        let internal = fixture::internal();
        firing_alert(
            &fixture::rule(),
            &group_key("10.0.0.1"),
            &internal,
            (at(1_000), 7),
            0,
            payload(10, flows),
        )
    }

    fn record(server: &str, app: App, last: u64, complete: bool) -> Arc<FlowRecord> {
        let flow = fixture::ending(fixture::flow("10.0.0.1:4000", server), at(last));
        Arc::new(FlowRecord { app, complete, flow, ..(*fixture::record(at(last))).clone() })
    }

    #[test]
    fn the_evidence_adds_up() {
        let alert = last_alert(vec![
            record("9.9.9.9:587", App::SmtpStartTls, 990, true),
            record("8.8.8.8:25", App::Smtp, 995, true),
            record("9.9.9.9:25", App::Smtp, 1_000, false),
        ]);
        assert_eq!((alert.time, alert.first, alert.last), (at(1_000), at(989), at(1_000)));
        assert_eq!(alert.ports, [25, 587]);
        assert_eq!(alert.apps, [App::Smtp, App::SmtpStartTls]);
        let [nine, eight] = ["9.9.9.9", "8.8.8.8"].map(|ip| ip.parse().unwrap());
        assert_eq!(alert.destinations, [(nine, 2), (eight, 1)]);
        let sum = CounterDelta { packets: 30, bytes: 6_000 };
        assert_eq!(alert.sums, FlowTotals { up: sum, down: sum, messages: 3 });
        assert_eq!(alert.matched_network.as_deref(), Some("10.0.0.0/8"));
        assert_eq!(alert.group.as_deref(), Some("lan"));
        assert!(!alert.complete, "one flow was not");
        assert_eq!(alert.labels["team"], "mail");
    }

    #[test]
    fn techniques_follow_the_flows_where_the_rule_names_both() {
        let with = |apps: &[App]| {
            last_alert(apps.iter().map(|app| record("9.9.9.9:25", *app, 1_000, true)).collect()).attack
        };
        assert_eq!(with(&[App::Smtp, App::Unseen]), ["T1048.003", "T1071.003"]);
        assert_eq!(with(&[App::Smtps, App::SmtpStartTls]), ["T1048.002", "T1071.003"]);
        assert_eq!(with(&[App::Smtp, App::Smtps]), ["T1048.003", "T1048.002", "T1071.003"]);
        assert_eq!(
            techniques(&["T1048.003".to_owned()], &[App::Smtps]),
            ["T1048.003"],
            "named alone, it stays"
        );
    }

    #[test]
    fn fingerprints_are_stable_and_tell_pairs_apart() {
        let print = fingerprint("smtp-burst", &group_key("10.0.0.1"));
        assert_eq!(print, "ed4f86953a2d1072");
        assert_ne!(print, fingerprint("smtp-burs", &group_key("10.0.0.1")));
        assert_ne!(print, fingerprint("smtp-burst", &group_key("10.0.0.11")));
        let [one, other] = ["fd00::1", "fd00::2"].map(|ip| fingerprint("r", &group_key(ip)));
        assert_eq!(one, other, "one /64, one source");
    }

    #[test]
    fn repeats_are_multiples_of_the_interval_and_the_end_follows_the_value() {
        let rule = fixture::rule();
        let mut incident =
            Incident::new(&rule, at(1_000), at(4_000), last_alert(vec![fixture::record(at(1_000))]));
        assert_eq!(incident.due(&rule, at(4_599)), DueAction::Later(at(4_600)));
        incident.extend_until(at(9_000));
        incident.extend_until(at(8_000));
        assert_eq!(incident.due(&rule, at(4_600)), DueAction::Repeat);
        let repeated = incident.repeat(&rule, at(4_601), 0, payload(9, Vec::new())).clone();
        assert_eq!((repeated.time, repeated.starts_at), (at(4_601), at(1_000)));
        assert_eq!((repeated.deciding_term.value, repeated.flows.len()), (Value::Exactly(9), 1));
        assert_eq!(incident.due(&rule, at(8_199)), DueAction::Later(at(8_200)), "1000 + 2 x 3600");
        assert_eq!(incident.due(&rule, at(9_600)), DueAction::Resolve, "before a repeat");
        let (resolved, end) = incident.resolve(at(9_600), 0, vec![value(0)]);
        assert_eq!(
            (resolved.state, resolved.ends_at, end),
            (AlertState::Resolved, Some(at(9_000)), at(9_000))
        );
        assert_eq!((resolved.fingerprint, resolved.starts_at), (repeated.fingerprint, at(1_000)));
        assert_eq!((repeated.starts_at_unix, resolved.starts_at_unix), (7, 7));
    }

    #[test]
    fn a_zero_repeat_interval_does_not_divide() {
        let rule = Rule { repeat_interval: Duration::ZERO, ..fixture::rule() };
        let incident = Incident::new(&rule, at(1_000), at(4_000), last_alert(Vec::new()));
        assert!(incident.deadline(&rule) > at(1_000));
    }
}
