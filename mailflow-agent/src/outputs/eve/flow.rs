//! Flow records as EVE-compatible JSON lines.

use std::{net::IpAddr, sync::Arc};

use mailflow_common::{App, Facts, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP, first_payload};
use serde::Serialize;
use sha1::{Digest, Sha1};

use super::common::{Mac, Moment};
use crate::outputs::{community_id::CommunityId, gateway::Gateway};
use mailflow_engine::{
    flow::{Flow, FlowRecord, RecordReason},
    inputs::Inputs,
    time::{Epoch, Time},
};

/// One flow record as JSON, without the line end. `epoch` places the packet clock on the wall clock.
///
/// # Errors
/// None that these types can bring about; it is serde's to say so.
pub fn line(record: &FlowRecord, epoch: Epoch, gateway: &Gateway) -> serde_json::Result<String> {
    serde_json::to_string(&FlowLine::of(record, epoch, gateway))
}

/// What a flow line holds; the field names are the product's interface (docs/integrate/events.md).
#[derive(Debug, Serialize)]
pub struct FlowLine {
    timestamp: Moment,
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
    mailflow: Extra,
}

#[derive(Debug, Serialize)]
struct EveFlow {
    pkts_toserver: Option<u64>,
    bytes_toserver: Option<u64>,
    pkts_toclient: Option<u64>,
    bytes_toclient: Option<u64>,
    start: Moment,
    end: Moment,
    age: u64,
    state: Option<&'static str>,
    reason: &'static str,
}

#[derive(Debug, Serialize)]
struct Extra {
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
    mac: Option<Mac>,
}

impl FlowLine {
    /// The line of `record`.
    pub fn of(record: &FlowRecord, epoch: Epoch, gateway: &Gateway) -> Self {
        let flow = &record.flow;
        let moment = |time| Moment::of(time, epoch);
        let known = |input, count| record.inputs.contains(input).then_some(count);
        Self {
            timestamp: moment(record.time()),
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
                pkts_toserver: known(Inputs::PACKETS, flow.up.packets),
                bytes_toserver: known(Inputs::BYTES, flow.up.bytes),
                pkts_toclient: known(Inputs::PACKETS, flow.down.packets),
                bytes_toclient: known(Inputs::BYTES, flow.down.bytes),
                start: moment(flow.first),
                end: moment(flow.last()),
                age: flow.last().since(flow.first).as_secs(),
                state: State::of(record).map(State::name),
                reason: record.reason.name(),
            },
            mailflow: Extra::of(record),
        }
    }
}

impl Extra {
    /// What the record does not tell is null, not 0.
    fn of(record: &FlowRecord) -> Self {
        let Flow { up, down, facts, messages, rejected, mac, .. } = &record.flow;
        let known = |input| record.inputs.contains(input);
        let count = |input, count| known(input).then_some(count);
        let fact = |input, fact: u8| known(input).then_some(fact != 0);
        Self {
            payload_up: count(Inputs::PAYLOAD, up.payload),
            payload_down: count(Inputs::PAYLOAD, down.payload),
            data_packets_up: count(Inputs::DATA_PACKETS, up.data_packets),
            data_packets_down: count(Inputs::DATA_PACKETS, down.data_packets),
            data_bytes_up: count(Inputs::DATA_BYTES, up.data_bytes),
            data_bytes_down: count(Inputs::DATA_BYTES, down.data_bytes),
            messages_estimated: known(Inputs::MESSAGES).then_some(*messages),
            messages_rejected: (known(Inputs::MESSAGES) && record.app == App::Smtp).then_some(*rejected),
            app_evidence: Evidence::of(record.app, facts).name(),
            complete: record.complete,
            syn: fact(Inputs::SYN, facts.syn),
            synack: fact(Inputs::SYN_ACK, facts.syn_ack),
            mptcp_join: facts.subflow(),
            mac: mac.map(Mac),
        }
    }
}

/// A number for a flow: the same in each of its records, another for the next flow of its ports.
///
/// It stays below 2^53, so that readers that keep numbers as doubles keep it whole.
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

fn protocol(number: u8) -> &'static str {
    match number {
        PROTOCOL_TCP => "TCP",
        PROTOCOL_UDP => "UDP",
        _ => "unknown",
    }
}

/// EVE's `flow.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// One side has spoken.
    New,
    /// Both have.
    Established,
    /// FIN both ways, or RST.
    Closed,
}

impl State {
    /// None where nothing is known that could tell it.
    fn of(FlowRecord { flow, reason, inputs, .. }: &FlowRecord) -> Option<Self> {
        let facts = &flow.facts;
        let finished = facts.reset != 0 || (facts.fin_up != 0 && facts.fin_down != 0);
        if finished || *reason == RecordReason::Closed {
            Some(State::Closed)
        } else if facts.syn_ack != 0 || (flow.up.packets > 0 && flow.down.packets > 0) {
            Some(State::Established)
        } else {
            inputs.intersects(Inputs::SYN_ACK | Inputs::PACKETS).then_some(State::New)
        }
    }

    const fn name(self) -> &'static str {
        match self {
            State::New => "new",
            State::Established => "established",
            State::Closed => "closed",
        }
    }
}

/// What decided a flow's application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// The server's first words.
    ServerGreeting,
    /// The client's first words.
    ClientHello,
    /// TLS from the first byte; the port names the family.
    Tls,
    /// Words of a mail protocol, then a change to TLS.
    StartTls,
    /// First bytes that no mail protocol begins with.
    Contradiction,
    /// Nothing but the port.
    Port,
}

impl Evidence {
    fn of(app: App, facts: &Facts) -> Self {
        match app {
            App::SmtpStartTls | App::Pop3Stls | App::ImapStartTls => Evidence::StartTls,
            App::Smtps | App::Pop3s | App::Imaps => Evidence::Tls,
            App::Smtp | App::Pop3 | App::Imap => match facts.first_payload_down {
                first_payload::SMTP | first_payload::POP3 | first_payload::IMAP => Evidence::ServerGreeting,
                _ => Evidence::ClientHello,
            },
            App::Other => Evidence::Contradiction,
            App::Unseen => Evidence::Port,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Evidence::ServerGreeting => "server_greeting",
            Evidence::ClientHello => "client_hello",
            Evidence::Tls => "tls",
            Evidence::StartTls => "starttls",
            Evidence::Contradiction => "contradiction",
            Evidence::Port => "port",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use mailflow_common::{Family, Scope, Vlans, classify, upgrade};

    use super::*;
    use mailflow_engine::flow::Direction;

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
    fn flow_ids_tell_flows_apart_and_fit_a_double() {
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
    fn evidence_names_what_classify_looked_at() {
        let evidence = |up, down, upgrade: u8| {
            let facts =
                Facts { syn: 1, first_payload_up: up, first_payload_down: down, upgrade, ..Facts::default() };
            Evidence::of(classify(&facts, Family::Smtp), &facts).name()
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
    fn states_are_eves() {
        let start = Time::ZERO + Duration::from_secs(1);
        let seen = Direction { packets: 1, last: Some(start), ..Direction::default() };
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
        let none = Direction::default();
        let syn = Facts { syn: 1, ..Facts::default() };
        let record = |flow: &Flow, reason, inputs| {
            let (flow, app, complete) = (flow.clone(), App::Unseen, true);
            State::of(&FlowRecord { flow, app, reason, complete, inputs }).map(State::name)
        };
        let state = |flow: &Flow, reason| record(flow, reason, Inputs::all()).unwrap();
        assert_eq!(state(&flow(seen, none, syn), RecordReason::Idle), "new");
        let nothing = flow(none, none, Facts::default());
        assert_eq!(record(&nothing, RecordReason::Idle, Inputs::PAYLOAD), None, "not recorded");
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
