//! Alert events as EVE-compatible JSON lines.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::{eve::Moment, flow_log::FlowLine};
use crate::engine::{
    event::{Alert, Gain, Value},
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
    src_ip: IpAddr,
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
    condition: &'static str,
    value: u64,
    threshold: u64,
    at_bound: bool,
    suppressed: bool,
    labels: &'a BTreeMap<String, String>,
    attack: &'a [String],
}

#[derive(Debug, Serialize)]
struct Extra<'a> {
    source: String,
    group: Option<&'a str>,
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
        let messages_known = alert.flows.iter().all(|record| record.inputs.contains(Inputs::MESSAGES));
        Self {
            timestamp: moment(alert.time),
            event_type: "alert",
            src_ip: address(alert),
            alert: EveAlert {
                signature: alert.rule.replace(['-', '_'], " "),
                rule: &alert.rule,
                rule_version: alert.rule_version,
                state: alert.state.name(),
                severity: alert.severity.name(),
                fingerprint: &alert.fingerprint,
                starts_at: moment(alert.starts_at),
                ends_at: alert.ends_at.map(moment),
                window: alert.window.as_secs(),
                condition: alert.condition,
                value: alert.value.number(),
                threshold: alert.threshold,
                at_bound: matches!(alert.value, Value::AtLeast(_)),
                // Only alerts that nothing suppressed are handed out by the engine.
                suppressed: false,
                labels: &alert.labels,
                attack: &alert.attack,
            },
            mailflow: Extra {
                source: alert.source.to_string(),
                group: alert.group.as_deref(),
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
            },
            flows: alert.flows.iter().map(|record| FlowLine::of(record, epoch)).collect(),
        }
    }
}

/// The address to show: the source itself, or for a prefix the client of the newest flow.
fn address(alert: &Alert) -> IpAddr {
    let network = alert.source.network();
    if network.prefix_len() == network.max_prefix_len() {
        return network.addr();
    }
    alert.flows.last().map_or(network.addr(), |record| record.flow.client())
}
