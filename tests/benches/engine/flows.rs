//! Flows as the kernel seam shows them.

use mailflow_common::{Address, Facts, FlowKey, PROTOCOL_TCP, Scope, Vlans, first_payload};
use mailflow_engine::{
    flow::{DirectionStats, Flow},
    time::Time,
};

/// Flows handed over together.
pub(crate) const PART: usize = 1_024;
/// Internal hosts they come from.
const CLIENTS: u32 = 10_000;

/// Whether R1 counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It does.
    Counts,
    /// Too little came down.
    Small,
}

/// A moment, in seconds.
pub(crate) fn at(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}

/// Flow `n` of a table in which each lives on, with so many packets each way, the last one at the second
/// of that number.
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

/// Flow `n` of those that begin 10 s before the reading `born`, which are 10 s apart; closed by now or not.
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
