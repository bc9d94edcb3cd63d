//! Flows as the kernel crate passes them.

use mailflow_common::{Address, Facts, FlowKey, PROTOCOL_TCP, Scope, Vlans, first_payload};
use mailflow_engine::{
    flow::{DirectionStats, Flow},
    time::Time,
};

/// Flows in a batch.
pub(crate) const PART: usize = 1_024;
/// Internal hosts that the flows come from.
const CLIENTS: u32 = 10_000;

/// Match of a flow with the rule `smtp-burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Flow that the rule counts.
    Counts,
    /// Flow with too few bytes from the server.
    Small,
}

/// Returns the time `seconds` after the epoch.
pub(crate) fn at(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}

/// Returns flow `n` of a table of open flows, with `packets` packets each way. The last packet arrives at
/// second `packets`.
pub(crate) fn flow(n: u32, kind: Kind, packets: u64) -> Flow {
    let way = |bytes: u64| DirectionStats {
        packets: 10 + packets,
        bytes: bytes * (10 + packets),
        payload: 500 * packets,
        data_packets: packets,
        data_bytes: 600 * packets,
        last: Some(at(packets)),
    };
    let down = if kind == Kind::Counts { 120 } else { 60 };
    Flow {
        key: key(n),
        up: way(300),
        down: way(down),
        first: Time::from_nanos(u64::from(n) * 4_000_000 % 999_999_999),
        messages: 1,
        rejected: 0,
        mac: None,
        interface: None,
        facts: Facts {
            syn: 1,
            syn_ack: 1,
            seen: 1,
            first_payload_down: first_payload::SMTP,
            ..Facts::default()
        },
    }
}

/// Returns flow `n` of the flows that begin 10 s before poll `born`; polls are 10 s apart. `ended` closes the
/// flow.
pub(crate) fn passing(born: u64, n: u32, kind: Kind, ended: bool) -> Flow {
    let begin = Time::from_nanos((born - 1) * 10_000_000_000 + u64::from(n % 1_000) * 4_000_000);
    let mut flow = flow(n, kind, 1);
    (flow.first, flow.up.last, flow.down.last) = (begin, Some(begin), Some(begin));
    if ended {
        (flow.facts.fin_up, flow.facts.fin_down) = (1, 1);
        (flow.up.packets, flow.up.bytes) = (flow.up.packets + 1, flow.up.bytes + 300);
    }
    flow
}

fn key(n: u32) -> FlowKey {
    let v4 = |ip: u32| Address::v4(ip.to_be());
    let source = n % CLIENTS;
    FlowKey {
        client: v4(0x0a00_0000 + source),
        server: v4(0x0909_0000 + (n / CLIENTS) % 50),
        client_port: 1_024 + (n / CLIENTS / 50) as u16,
        server_port: 25,
        scope: Scope::new(Vlans::default(), PROTOCOL_TCP, false),
    }
}
