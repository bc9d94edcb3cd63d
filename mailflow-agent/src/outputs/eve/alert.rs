//! Alert events as EVE-compatible JSON lines.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::Serialize;

use super::{common::Moment, flow::FlowLine};
use crate::outputs::gateway::Gateway;
use mailflow_engine::{
    event::{Alert, Gain, Severity, TermValue, Value},
    inputs::Inputs,
    settings::{signature_id, unit},
    time::Epoch,
};

/// Returns an alert event of `gateway` as JSON, without the line end, with at most so many of its newest flows.
/// `epoch` places the packet clock on the wall clock.
///
/// # Errors
/// None that these types can bring about; it is serde's to say so.
pub fn line(alert: &Alert, epoch: Epoch, gateway: &Gateway, flows: usize) -> serde_json::Result<String> {
    serde_json::to_string(&AlertLine::of(alert, epoch, gateway, flows))
}

/// Our generator; Suricata's own is 1. The number is the one for documentation (RFC 5612), as in syslog.
const GENERATOR: u32 = 32_473;
/// The name of Suricata's class `bad-unknown`, which readers of EVE lines know.
const CATEGORY: &str = "Potentially Bad Traffic";

/// What an alert line holds; the field names are the product's interface (docs/integrate/events.md).
#[derive(Debug, Serialize)]
pub struct AlertLine<'a> {
    timestamp: Moment,
    event_type: &'static str,
    host: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_iface: Option<Arc<str>>,
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
    action: &'static str,
    gid: u32,
    signature_id: u32,
    rev: u32,
    signature: String,
    category: &'static str,
    severity: u8,
    rule: &'a str,
    rule_version: u32,
    state: &'static str,
    fingerprint: &'a str,
    starts_at: Moment,
    ends_at: Option<Moment>,
    window: u64,
    condition: &'a str,
    unit: &'static str,
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
    unit: &'static str,
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
    severity: &'static str,
    interfaces: Arc<[Arc<str>]>,
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
    flows_omitted: usize,
    like_a_relay: Option<String>,
    conditions: Vec<Term<'a>>,
}

#[derive(Debug, Serialize)]
struct Sum {
    packets: Option<u64>,
    bytes: Option<u64>,
}

impl Sum {
    /// Returns the sum over the flows of an alert; null where one of them lacks it.
    fn of(alert: &Alert, Gain { packets, bytes }: Gain) -> Self {
        let known = |input, sum| alert.tells(input).then_some(sum);
        Self { packets: known(Inputs::PACKETS, packets), bytes: known(Inputs::BYTES, bytes) }
    }
}

#[derive(Debug, Serialize)]
struct Destination {
    ip: IpAddr,
    flows: u64,
}

impl<'a> AlertLine<'a> {
    /// The line of `alert`, with at most so many of its newest flows.
    pub fn of(alert: &'a Alert, epoch: Epoch, gateway: &Gateway, flows: usize) -> Self {
        let moment = |time| Moment::of(time, epoch);
        let decided = &alert.decided;
        let interfaces = gateway.interfaces_of(alert);
        let omitted = alert.flows.len().saturating_sub(flows);
        let shown = alert.flows.get(omitted..).unwrap_or_default();
        Self {
            timestamp: moment(alert.time),
            event_type: "alert",
            host: Arc::clone(gateway.name()),
            in_iface: only(&interfaces),
            src_ip: address(alert),
            dest_ip: alert.subject.destination(),
            alert: EveAlert {
                action: "allowed",
                gid: GENERATOR,
                signature_id: signature_id(&alert.rule),
                rev: alert.rule_version,
                signature: alert.rule.replace(['-', '_'], " "),
                category: CATEGORY,
                severity: severity(alert.severity),
                rule: &alert.rule,
                rule_version: alert.rule_version,
                state: alert.state.name(),
                fingerprint: &alert.fingerprint,
                starts_at: Moment::of_start(alert),
                ends_at: Moment::of_end(alert, epoch),
                window: decided.window.as_secs(),
                condition: &decided.name,
                unit: unit(&decided.name),
                value: Number::held(decided),
                threshold: Number::of(decided.threshold, decided.scale),
                at_bound: matches!(decided.value, Value::AtLeast(_)),
                suppressed: alert.suppressed.is_some(),
                suppressed_by: alert.suppressed.as_deref(),
                labels: &alert.labels,
                attack: &alert.attack,
            },
            mailflow: Extra {
                severity: alert.severity.name(),
                interfaces,
                subject: alert.subject.to_string(),
                source: alert.source.map(|source| source.to_string()),
                group: alert.group.as_deref(),
                role: alert.role.map(|role| role.name()),
                matched_network: alert.matched_network.as_deref(),
                first: moment(alert.first),
                last: moment(alert.last),
                ports: &alert.ports,
                applications: alert.apps.iter().map(|app| app.name()).collect(),
                up: Sum::of(alert, alert.sums.up),
                down: Sum::of(alert, alert.sums.down),
                messages_estimated: alert.tells(Inputs::MESSAGES).then_some(alert.sums.messages),
                destinations: alert
                    .destinations
                    .iter()
                    .map(|&(ip, flows)| Destination { ip, flows })
                    .collect(),
                complete: alert.complete,
                evidence_cut: alert.cut,
                flows_omitted: omitted,
                like_a_relay: alert.relay.map(|relay| relay.to_string()),
                conditions: alert.terms.iter().map(Term::of).collect(),
            },
            flows: shown.iter().map(|record| FlowLine::of(record, epoch, gateway)).collect(),
        }
    }
}

/// The interface of an event with these: where it is one alone.
fn only(interfaces: &[Arc<str>]) -> Option<Arc<str>> {
    match interfaces {
        [only] => Some(Arc::clone(only)),
        _ => None,
    }
}

/// Returns Suricata's number of a severity, of which 1 is the highest.
const fn severity(severity: Severity) -> u8 {
    match severity {
        Severity::Critical | Severity::High => 1,
        Severity::Medium => 2,
        Severity::Low => 3,
    }
}

impl<'a> Term<'a> {
    fn of(term: &'a TermValue) -> Self {
        Self {
            name: &term.name,
            unit: unit(&term.name),
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
