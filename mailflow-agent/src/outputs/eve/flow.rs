//! Flow records as EVE-compatible JSON lines.

use std::{net::IpAddr, sync::Arc};

use mailflow_common::{App, Facts, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP, first_payload};
use serde::Serialize;
use sha1::{Digest, Sha1};

use super::common::{EveMac, EveTimestamp};
use crate::outputs::{community_id::CommunityId, gateway::Gateway};
use mailflow_engine::{
    flow::RecordFields,
    flow::{Flow, FlowRecord, RecordReason},
    time::{Time, WallClockOffset},
};

/// Returns a flow record as JSON, without the line end. `epoch` converts times to Unix time.
///
/// # Errors
/// Serialisation fails, which these types cannot cause.
pub fn line(record: &FlowRecord, epoch: WallClockOffset, gateway: &Gateway) -> serde_json::Result<String> {
    serde_json::to_string(&FlowLine::of(record, epoch, gateway))
}

/// Fields of a flow line. The names are a public interface (docs/integrate/events.md).
#[derive(Debug, Serialize)]
pub struct FlowLine {
    timestamp: EveTimestamp,
    event_type: &'static str,
    host: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_iface: Option<Arc<str>>,
    flow_id: u64,
    src_ip: IpAddr,
    src_port: u16,
    dest_ip: IpAddr,
    dest_port: u16,
    proto: &'static str,
    app_proto: &'static str,
    community_id: CommunityId,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vlan: Vec<u16>,
    flow: EveFlow,
    mailflow: FlowExtension,
}

/// Object `flow` of a flow line.
#[derive(Debug, Serialize)]
struct EveFlow {
    pkts_toserver: Option<u64>,
    bytes_toserver: Option<u64>,
    pkts_toclient: Option<u64>,
    bytes_toclient: Option<u64>,
    start: EveTimestamp,
    end: EveTimestamp,
    age: u64,
    state: Option<&'static str>,
    reason: &'static str,
}

/// Object `mailflow` of a flow line.
#[derive(Debug, Serialize)]
struct FlowExtension {
    payload_up: Option<u64>,
    payload_down: Option<u64>,
    data_packets_up: Option<u64>,
    data_packets_down: Option<u64>,
    data_bytes_up: Option<u64>,
    data_bytes_down: Option<u64>,
    messages_estimated: Option<u32>,
    messages_rejected: Option<u32>,
    app_evidence: &'static str,
    complete: bool,
    syn: Option<bool>,
    synack: Option<bool>,
    mptcp_join: bool,
    mac: Option<EveMac>,
}

impl FlowLine {
    /// Creates the line of `record`.
    pub fn of(record: &FlowRecord, epoch: WallClockOffset, gateway: &Gateway) -> Self {
        let flow = &record.flow;
        let timestamp_of = |time| EveTimestamp::of(time, epoch);
        let known = |input, count| record.fields.contains(input).then_some(count);
        Self {
            timestamp: timestamp_of(record.time()),
            event_type: "flow",
            host: Arc::clone(gateway.name()),
            in_iface: gateway.interface(flow.interface),
            flow_id: flow_id(&flow.key, flow.first),
            src_ip: flow.client(),
            src_port: flow.key.client_port,
            dest_ip: flow.server(),
            dest_port: flow.key.server_port,
            proto: protocol(flow.key.scope.protocol()),
            app_proto: record.app.name(),
            community_id: CommunityId::of(&flow.key),
            vlan: flow.key.scope.vlans().tags().collect(),
            flow: EveFlow {
                pkts_toserver: known(RecordFields::PACKETS, flow.up.packets),
                bytes_toserver: known(RecordFields::BYTES, flow.up.bytes),
                pkts_toclient: known(RecordFields::PACKETS, flow.down.packets),
                bytes_toclient: known(RecordFields::BYTES, flow.down.bytes),
                start: timestamp_of(flow.first),
                end: timestamp_of(flow.last()),
                age: flow.last().since(flow.first).as_secs(),
                state: FlowState::of(record).map(FlowState::name),
                reason: record.reason.name(),
            },
            mailflow: FlowExtension::of(record),
        }
    }
}

impl FlowExtension {
    /// Creates the extension. Fields that the record lacks are null, not 0.
    fn of(record: &FlowRecord) -> Self {
        let Flow { up, down, facts, messages, rejected, mac, .. } = &record.flow;
        let known = |input| record.fields.contains(input);
        let count = |input, count| known(input).then_some(count);
        let fact = |input, fact: u8| known(input).then_some(fact != 0);
        Self {
            payload_up: count(RecordFields::PAYLOAD, up.payload),
            payload_down: count(RecordFields::PAYLOAD, down.payload),
            data_packets_up: count(RecordFields::DATA_PACKETS, up.data_packets),
            data_packets_down: count(RecordFields::DATA_PACKETS, down.data_packets),
            data_bytes_up: count(RecordFields::DATA_BYTES, up.data_bytes),
            data_bytes_down: count(RecordFields::DATA_BYTES, down.data_bytes),
            messages_estimated: known(RecordFields::MESSAGES).then_some(*messages),
            messages_rejected: (known(RecordFields::MESSAGES) && record.app == App::Smtp)
                .then_some(*rejected),
            app_evidence: AppEvidence::of(record.app, facts).name(),
            complete: record.complete,
            syn: fact(RecordFields::SYN, facts.syn),
            synack: fact(RecordFields::SYN_ACK, facts.syn_ack),
            mptcp_join: facts.subflow(),
            mac: mac.map(EveMac),
        }
    }
}

/// Returns an identifier of a flow: equal in all its records, different for the next flow on its 5-tuple.
///
/// The identifier is less than 2^53, so that JSON parsers that use doubles keep it exact.
pub(crate) fn flow_id(key: &FlowKey, first: Time) -> u64 {
    let mut hash = Sha1::new();
    for ip in [key.client.ip(), key.server.ip()] {
        match ip {
            IpAddr::V4(v4) => hash.update(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => hash.update(v6.octets()),
        }
    }
    hash.update(key.client_port.to_be_bytes());
    hash.update(key.server_port.to_be_bytes());
    hash.update([key.scope.protocol()]);
    for tag in key.scope.vlans().tags() {
        hash.update(tag.to_be_bytes());
    }
    hash.update(first.as_nanos().to_be_bytes());
    let digest: [u8; 20] = hash.finalize().into();
    digest[..8].iter().fold(0, |id, byte| id << 8 | u64::from(*byte)) >> 11
}

/// Returns the name of an IP protocol.
fn protocol(number: u8) -> &'static str {
    match number {
        PROTOCOL_TCP => "TCP",
        PROTOCOL_UDP => "UDP",
        _ => "unknown",
    }
}

/// Value of EVE's `flow.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlowState {
    /// Packets in one direction only.
    New,
    /// Packets in both directions.
    Established,
    /// FIN in both directions, or RST.
    Closed,
}

impl FlowState {
    /// Returns the state, or `None` if the record lacks the fields that determine it.
    fn of(FlowRecord { flow, reason, fields: inputs, .. }: &FlowRecord) -> Option<Self> {
        let facts = &flow.facts;
        let finished = facts.reset != 0 || (facts.fin_up != 0 && facts.fin_down != 0);
        if finished || *reason == RecordReason::Closed {
            Some(FlowState::Closed)
        } else if facts.syn_ack != 0 || (flow.up.packets > 0 && flow.down.packets > 0) {
            Some(FlowState::Established)
        } else {
            inputs.intersects(RecordFields::SYN_ACK | RecordFields::PACKETS).then_some(FlowState::New)
        }
    }

    const fn name(self) -> &'static str {
        match self {
            FlowState::New => "new",
            FlowState::Established => "established",
            FlowState::Closed => "closed",
        }
    }
}

/// Evidence that determined the application of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AppEvidence {
    /// First payload of the server.
    ServerGreeting,
    /// First payload of the client.
    ClientHello,
    /// TLS from the first byte. The port determines the family.
    Tls,
    /// Mail protocol followed by an upgrade to TLS.
    StartTls,
    /// First payload that belongs to no mail protocol.
    Contradiction,
    /// Port number only.
    Port,
}

impl AppEvidence {
    /// Returns the evidence for an application.
    fn of(app: App, facts: &Facts) -> Self {
        match app {
            App::SmtpStartTls | App::Pop3Stls | App::ImapStartTls => AppEvidence::StartTls,
            App::Smtps | App::Pop3s | App::Imaps => AppEvidence::Tls,
            App::Smtp | App::Pop3 | App::Imap => match facts.first_payload_down {
                first_payload::SMTP | first_payload::POP3 | first_payload::IMAP => {
                    AppEvidence::ServerGreeting
                }
                _ => AppEvidence::ClientHello,
            },
            App::Other => AppEvidence::Contradiction,
            App::Unseen => AppEvidence::Port,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            AppEvidence::ServerGreeting => "server_greeting",
            AppEvidence::ClientHello => "client_hello",
            AppEvidence::Tls => "tls",
            AppEvidence::StartTls => "starttls",
            AppEvidence::Contradiction => "contradiction",
            AppEvidence::Port => "port",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use mailflow_common::{Family, Scope, Vlans, classify, upgrade};

    use super::*;
    use mailflow_engine::flow::DirectionStats;

    fn key(client_port: u16) -> FlowKey {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap().into();
        FlowKey {
            client: ip("10.0.0.1"),
            server: ip("192.0.2.1"),
            client_port,
            server_port: 25,
            scope: Scope::new(Vlans::default(), PROTOCOL_TCP, false),
        }
    }

    #[test]
    fn flow_ids_are_unique_and_fit_a_double() {
        let mut ids = HashSet::new();
        for port in 0..1_000 {
            for first in [0, 1, u64::MAX] {
                let id = flow_id(&key(port), Time::from_nanos(first));
                assert_eq!(id, flow_id(&key(port), Time::from_nanos(first)));
                assert!(id < 1 << 53);
                assert!(ids.insert(id));
            }
        }
        let mut tagged = key(0);
        tagged.scope = Scope::new(Vlans::default().push(7), PROTOCOL_TCP, false);
        assert!(ids.insert(flow_id(&tagged, Time::ZERO)), "another zone is another flow");
    }

    #[test]
    fn evidence_matches_classify() {
        let evidence = |up, down, upgrade: u8| {
            let facts =
                Facts { syn: 1, first_payload_up: up, first_payload_down: down, upgrade, ..Facts::default() };
            AppEvidence::of(classify(&facts, Family::Smtp), &facts).name()
        };
        assert_eq!(evidence(first_payload::SMTP, first_payload::SMTP, 0), "server_greeting");
        assert_eq!(evidence(first_payload::OTHER, first_payload::IMAP, 0), "server_greeting");
        assert_eq!(evidence(first_payload::SMTP, first_payload::NONE, 0), "client_hello");
        assert_eq!(evidence(first_payload::SMTP, first_payload::SMTP, upgrade::FOLLOWED), "starttls");
        assert_eq!(evidence(first_payload::TLS, first_payload::TLS, 0), "tls");
        assert_eq!(evidence(first_payload::OTHER, first_payload::OTHER, 0), "contradiction");
        assert_eq!(evidence(first_payload::NONE, first_payload::NONE, 0), "port");
    }

    #[test]
    fn states_match_eve() {
        let start = Time::ZERO + Duration::from_secs(1);
        let seen = DirectionStats { packets: 1, last: Some(start), ..DirectionStats::default() };
        let flow = |up, down, facts| Flow {
            key: key(1),
            up,
            down,
            first: start,
            messages: 0,
            rejected: 0,
            mac: None,
            interface: None,
            facts,
        };
        let none = DirectionStats::default();
        let syn = Facts { syn: 1, ..Facts::default() };
        let record = |flow: &Flow, reason, inputs| {
            let (flow, app, complete) = (flow.clone(), App::Unseen, true);
            FlowState::of(&FlowRecord { flow, app, reason, complete, fields: inputs }).map(FlowState::name)
        };
        let state = |flow: &Flow, reason| record(flow, reason, RecordFields::all()).unwrap();
        assert_eq!(state(&flow(seen, none, syn), RecordReason::Idle), "new");
        let nothing = flow(none, none, Facts::default());
        assert_eq!(record(&nothing, RecordReason::Idle, RecordFields::PAYLOAD), None, "not recorded");
        assert_eq!(state(&flow(seen, seen, syn), RecordReason::Active), "established");
        let answered = Facts { syn_ack: 1, ..syn };
        assert_eq!(state(&flow(none, seen, answered), RecordReason::Active), "established");
        let reset = Facts { reset: 1, ..answered };
        assert_eq!(state(&flow(seen, seen, reset), RecordReason::Shutdown), "closed");
        let half = Facts { fin_up: 1, ..answered };
        assert_eq!(state(&flow(seen, seen, half), RecordReason::Active), "established");
        let both = Facts { fin_down: 1, ..half };
        assert_eq!(state(&flow(seen, seen, both), RecordReason::Closed), "closed");
    }
}
