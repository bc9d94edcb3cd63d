//! Alert events as EVE-compatible JSON lines.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::Serialize;

use super::{common::EveTimestamp, flow::FlowLine};
use crate::outputs::gateway::Gateway;
use mailflow_engine::{
    event::{Alert, CounterDelta, Severity, TermValue, Value},
    flow::RecordFields,
    settings::{signature_id, unit},
    time::WallClockOffset,
};

/// Returns an alert event of `gateway` as JSON, without the line end, with at most `flows` of its newest
/// flows. `epoch` converts times to Unix time.
///
/// # Errors
/// Serialisation fails, which these types cannot cause.
pub fn line(
    alert: &Alert,
    epoch: WallClockOffset,
    gateway: &Gateway,
    flows: usize,
) -> serde_json::Result<String> {
    serde_json::to_string(&AlertLine::of(alert, epoch, gateway, flows))
}

/// Generator ID of mailflow. Suricata uses 1. The number is reserved for documentation (RFC 5612), as in
/// syslog.
const GENERATOR_ID: u32 = 32_473;
/// Description of Suricata's class `bad-unknown`, which consumers of EVE lines know.
const SIGNATURE_CATEGORY: &str = "Potentially Bad Traffic";

/// Fields of an alert line. The names are a public interface (docs/integrate/events.md).
#[derive(Debug, Serialize)]
pub struct AlertLine<'a> {
    timestamp: EveTimestamp,
    event_type: &'static str,
    host: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_iface: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_ip: Option<IpAddr>,
    alert: EveAlert<'a>,
    mailflow: AlertExtension<'a>,
    flows: Vec<FlowLine>,
}

/// Object `alert` of an alert line.
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
    starts_at: EveTimestamp,
    ends_at: Option<EveTimestamp>,
    window: u64,
    condition: &'a str,
    unit: &'static str,
    value: EveNumber,
    threshold: EveNumber,
    at_bound: bool,
    suppressed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed_by: Option<&'a str>,
    labels: &'a BTreeMap<String, String>,
    attack: &'a [String],
}

/// Term of the rule's condition.
#[derive(Debug, Serialize)]
struct EveTerm<'a> {
    name: &'a str,
    unit: &'static str,
    window: u64,
    value: EveNumber,
    threshold: EveNumber,
    at_bound: bool,
    holds: bool,
}

/// Integer or fraction, or `null` if it cannot be evaluated.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum EveNumber {
    Whole(u64),
    Part(f64),
    Unknown,
}

impl EveNumber {
    fn of(number: u64, scale: u64) -> Self {
        if scale == 1 { EveNumber::Whole(number) } else { EveNumber::Part(number as f64 / scale as f64) }
    }

    /// Returns the value of a term.
    fn of_term(term: &TermValue) -> Self {
        match term.value {
            Value::Unknown => EveNumber::Unknown,
            value => EveNumber::of(value.number(), term.scale),
        }
    }
}

/// Object `mailflow` of an alert line.
#[derive(Debug, Serialize)]
struct AlertExtension<'a> {
    severity: &'static str,
    interfaces: Arc<[Arc<str>]>,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    group: Option<&'a str>,
    role: Option<&'static str>,
    matched_network: Option<&'a str>,
    first: EveTimestamp,
    last: EveTimestamp,
    ports: &'a [u16],
    applications: Vec<&'static str>,
    up: EveSum,
    down: EveSum,
    messages_estimated: Option<u64>,
    destinations: Vec<EveDestination>,
    complete: bool,
    evidence_cut: bool,
    flows_omitted: usize,
    like_a_relay: Option<String>,
    conditions: Vec<EveTerm<'a>>,
}

/// Sums of one direction.
#[derive(Debug, Serialize)]
struct EveSum {
    packets: Option<u64>,
    bytes: Option<u64>,
}

impl EveSum {
    /// Returns the sum over the flows of an alert, or null if a flow lacks the field.
    fn of(alert: &Alert, CounterDelta { packets, bytes }: CounterDelta) -> Self {
        let known = |input, sum| alert.tells(input).then_some(sum);
        Self { packets: known(RecordFields::PACKETS, packets), bytes: known(RecordFields::BYTES, bytes) }
    }
}

/// Destination with its number of flows.
#[derive(Debug, Serialize)]
struct EveDestination {
    ip: IpAddr,
    flows: u64,
}

impl<'a> AlertLine<'a> {
    /// Creates the line of `alert`, with at most `flows` of its newest flows.
    pub fn of(alert: &'a Alert, epoch: WallClockOffset, gateway: &Gateway, flows: usize) -> Self {
        let timestamp_of = |time| EveTimestamp::of(time, epoch);
        let decided = &alert.deciding_term;
        let interfaces = gateway.interfaces_of(alert);
        let omitted = alert.flows.len().saturating_sub(flows);
        let shown = alert.flows.get(omitted..).unwrap_or_default();
        Self {
            timestamp: timestamp_of(alert.time),
            event_type: "alert",
            host: Arc::clone(gateway.name()),
            in_iface: single_interface(&interfaces),
            src_ip: address(alert),
            dest_ip: alert.group_key.destination(),
            alert: EveAlert {
                action: "allowed",
                gid: GENERATOR_ID,
                signature_id: signature_id(&alert.rule),
                rev: alert.rule_version,
                signature: alert.rule.replace(['-', '_'], " "),
                category: SIGNATURE_CATEGORY,
                severity: severity(alert.severity),
                rule: &alert.rule,
                rule_version: alert.rule_version,
                state: alert.state.name(),
                fingerprint: &alert.fingerprint,
                starts_at: EveTimestamp::of_start(alert),
                ends_at: EveTimestamp::of_end(alert, epoch),
                window: decided.window.as_secs(),
                condition: &decided.name,
                unit: unit(&decided.name),
                value: EveNumber::of_term(decided),
                threshold: EveNumber::of(decided.threshold, decided.scale),
                at_bound: matches!(decided.value, Value::AtLeast(_)),
                suppressed: alert.suppressed.is_some(),
                suppressed_by: alert.suppressed.as_deref(),
                labels: &alert.labels,
                attack: &alert.attack,
            },
            mailflow: AlertExtension {
                severity: alert.severity.name(),
                interfaces,
                subject: alert.group_key.to_string(),
                source: alert.source.map(|source| source.to_string()),
                group: alert.group.as_deref(),
                role: alert.role.map(|role| role.name()),
                matched_network: alert.matched_network.as_deref(),
                first: timestamp_of(alert.first),
                last: timestamp_of(alert.last),
                ports: &alert.ports,
                applications: alert.apps.iter().map(|app| app.name()).collect(),
                up: EveSum::of(alert, alert.sums.up),
                down: EveSum::of(alert, alert.sums.down),
                messages_estimated: alert.tells(RecordFields::MESSAGES).then_some(alert.sums.messages),
                destinations: alert
                    .destinations
                    .iter()
                    .map(|&(ip, flows)| EveDestination { ip, flows })
                    .collect(),
                complete: alert.complete,
                evidence_cut: alert.is_truncated,
                flows_omitted: omitted,
                like_a_relay: alert.relay.map(|relay| relay.to_string()),
                conditions: alert.terms.iter().map(EveTerm::of).collect(),
            },
            flows: shown.iter().map(|record| FlowLine::of(record, epoch, gateway)).collect(),
        }
    }
}

/// Returns the interface if there is exactly one.
fn single_interface(interfaces: &[Arc<str>]) -> Option<Arc<str>> {
    match interfaces {
        [only] => Some(Arc::clone(only)),
        _ => None,
    }
}

/// Returns Suricata's severity, of which 1 is the highest.
const fn severity(severity: Severity) -> u8 {
    match severity {
        Severity::Critical | Severity::High => 1,
        Severity::Medium => 2,
        Severity::Low => 3,
    }
}

impl<'a> EveTerm<'a> {
    fn of(term: &'a TermValue) -> Self {
        Self {
            name: &term.name,
            unit: unit(&term.name),
            window: term.window.as_secs(),
            value: EveNumber::of_term(term),
            threshold: EveNumber::of(term.threshold, term.scale),
            at_bound: matches!(term.value, Value::AtLeast(_)),
            holds: term.holds,
        }
    }
}

/// Returns the address of a source that is a single host. For a prefix, a server or a group it returns the
/// client of the newest flow.
fn address(alert: &Alert) -> Option<IpAddr> {
    let network = alert.source.map(|source| source.network());
    if let Some(network) = network.filter(|network| network.prefix_len() == network.max_prefix_len()) {
        return Some(network.addr());
    }
    let newest = alert.flows.last().map(|record| record.flow.client());
    newest.or(network.map(|network| network.addr()))
}
