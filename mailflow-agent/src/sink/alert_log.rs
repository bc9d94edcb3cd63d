//! Alert events as EVE-compatible JSON lines.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::{eve::Moment, flow_log::FlowLine};
use crate::engine::{
    event::{Alert, Gain, TermValue, Value},
    inputs::Inputs,
    time::Epoch,
};

/// One alert event as JSON, without the line end. `epoch` places the packet clock on the wall clock.
///
/// # Errors
/// None that these types can bring about; it is serde's to say so.
pub fn line(alert: &Alert, epoch: Epoch) -> serde_json::Result<String> {
    serde_json::to_string(&AlertLine::of(alert, epoch))
}

/// What an alert line holds; the field names are the product's interface (docs/events.md).
#[derive(Debug, Serialize)]
pub struct AlertLine<'a> {
    timestamp: Moment,
    event_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_ip: Option<IpAddr>,
    alert: EveAlert<'a>,
    mailflow: Extra<'a>,
    flows: Vec<FlowLine>,
}

#[derive(Debug, Serialize)]
struct EveAlert<'a> {
    signature: String,
    rule: &'a str,
    rule_version: u32,
    state: &'static str,
    severity: &'static str,
    fingerprint: &'a str,
    starts_at: Moment,
    ends_at: Option<Moment>,
    window: u64,
    condition: &'a str,
    value: Number,
    threshold: Number,
    at_bound: bool,
    suppressed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed_by: Option<&'a str>,
    labels: &'a BTreeMap<String, String>,
    attack: &'a [String],
}

/// A term of the rule's condition.
#[derive(Debug, Serialize)]
struct Term<'a> {
    name: &'a str,
    window: u64,
    value: Number,
    threshold: Number,
    at_bound: bool,
    holds: bool,
}

/// A whole number, or a part of one; `null` where it is not evaluable.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Number {
    Whole(u64),
    Part(f64),
    Unknown,
}

impl Number {
    fn of(number: u64, scale: u64) -> Self {
        if scale == 1 { Number::Whole(number) } else { Number::Part(number as f64 / scale as f64) }
    }

    fn held(term: &TermValue) -> Self {
        match term.value {
            Value::Unknown => Number::Unknown,
            value => Number::of(value.number(), term.scale),
        }
    }
}

#[derive(Debug, Serialize)]
struct Extra<'a> {
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    group: Option<&'a str>,
    role: Option<&'static str>,
    matched_network: Option<&'a str>,
    first: Moment,
    last: Moment,
    ports: &'a [u16],
    applications: Vec<&'static str>,
    up: Sum,
    down: Sum,
    messages_estimated: Option<u64>,
    destinations: Vec<Destination>,
    complete: bool,
    evidence_cut: bool,
    like_a_relay: Option<String>,
    conditions: Vec<Term<'a>>,
}

#[derive(Debug, Serialize)]
struct Sum {
    packets: u64,
    bytes: u64,
}

impl From<Gain> for Sum {
    fn from(Gain { packets, bytes }: Gain) -> Self {
        Self { packets, bytes }
    }
}

#[derive(Debug, Serialize)]
struct Destination {
    ip: IpAddr,
    flows: u64,
}

impl<'a> AlertLine<'a> {
    /// The line of `alert`.
    pub fn of(alert: &'a Alert, epoch: Epoch) -> Self {
        let moment = |time| Moment::of(time, epoch);
        let decided = &alert.decided;
        let messages_known = alert.flows.iter().all(|record| record.inputs.contains(Inputs::MESSAGES));
        Self {
            timestamp: moment(alert.time),
            event_type: "alert",
            src_ip: address(alert),
            dest_ip: alert.subject.destination(),
            alert: EveAlert {
                signature: alert.rule.replace(['-', '_'], " "),
                rule: &alert.rule,
                rule_version: alert.rule_version,
                state: alert.state.name(),
                severity: alert.severity.name(),
                fingerprint: &alert.fingerprint,
                starts_at: Moment::of_start(alert),
                ends_at: Moment::of_end(alert, epoch),
                window: decided.window.as_secs(),
                condition: &decided.name,
                value: Number::held(decided),
                threshold: Number::of(decided.threshold, decided.scale),
                at_bound: matches!(decided.value, Value::AtLeast(_)),
                suppressed: alert.suppressed.is_some(),
                suppressed_by: alert.suppressed.as_deref(),
                labels: &alert.labels,
                attack: &alert.attack,
            },
            mailflow: Extra {
                subject: alert.subject.to_string(),
                source: alert.source.map(|source| source.to_string()),
                group: alert.group.as_deref(),
                role: alert.role.map(|role| role.name()),
                matched_network: alert.matched_network.as_deref(),
                first: moment(alert.first),
                last: moment(alert.last),
                ports: &alert.ports,
                applications: alert.apps.iter().map(|app| app.name()).collect(),
                up: alert.sums.up.into(),
                down: alert.sums.down.into(),
                messages_estimated: messages_known.then_some(alert.sums.messages),
                destinations: alert
                    .destinations
                    .iter()
                    .map(|&(ip, flows)| Destination { ip, flows })
                    .collect(),
                complete: alert.complete,
                evidence_cut: alert.cut,
                like_a_relay: alert.relay.map(|relay| relay.to_string()),
                conditions: alert.terms.iter().map(Term::of).collect(),
            },
            flows: alert.flows.iter().map(|record| FlowLine::of(record, epoch)).collect(),
        }
    }
}

impl<'a> Term<'a> {
    fn of(term: &'a TermValue) -> Self {
        Self {
            name: &term.name,
            window: term.window.as_secs(),
            value: Number::held(term),
            threshold: Number::of(term.threshold, term.scale),
            at_bound: matches!(term.value, Value::AtLeast(_)),
            holds: term.holds,
        }
    }
}

/// The address to show: the source itself, or for a prefix, a server or a group the client of the newest
/// flow.
fn address(alert: &Alert) -> Option<IpAddr> {
    let network = alert.source.map(|source| source.network());
    if let Some(network) = network.filter(|network| network.prefix_len() == network.max_prefix_len()) {
        return Some(network.addr());
    }
    let newest = alert.flows.last().map(|record| record.flow.client());
    newest.or(network.map(|network| network.addr()))
}
