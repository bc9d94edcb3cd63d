//! The records of given flows.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use mailflow_common::{Facts, FlowKey, PROTOCOL_TCP, Scope, Vlans};

use super::{flow::Given, kinds::Answer};
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason},
    time::Time,
};

/// The first client port that is given out.
const FIRST_PORT: u16 = 32_768;

impl Given {
    /// Records of each flow.
    pub(crate) fn steps(&self, active: Duration) -> u32 {
        let steps = self.duration.as_nanos().div_ceil(active.as_nanos().max(1)).max(1);
        u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// The records of the flow `number` of this line: on its way every time the active interval has passed,
    /// its counters grown evenly, and a last one. `before` records were made in this test.
    pub(crate) fn records(
        &self,
        number: u64,
        start: Time,
        before: usize,
        active: Duration,
    ) -> impl Iterator<Item = FlowRecord> + use<> {
        let begins = self.every.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        let first = start + self.at + begins;
        let ports = u64::from(u16::MAX - FIRST_PORT) + 1;
        let free = FIRST_PORT + u16::try_from(before as u64 % ports).unwrap_or(0);
        let client_port = self.client_port.unwrap_or(free);
        let [client, server] = [nth(self.source, number), nth(self.destination, number)];
        let key = FlowKey {
            client: client.into(),
            server: server.into(),
            client_port,
            server_port: self.port,
            scope: Scope::new(Vlans::default(), PROTOCOL_TCP, client.is_ipv6()),
        };
        let facts = Facts {
            syn: u8::from(self.syn),
            syn_ack: u8::from(self.answer == Answer::SynAck),
            seen: u8::from(self.answer != Answer::Nothing),
            reset: u8::from(self.answer == Answer::Reset),
            fin_up: u8::from(self.answer == Answer::SynAck),
            fin_down: u8::from(self.answer == Answer::SynAck),
            ..Facts::NONE
        };
        let reason = if self.answer == Answer::Nothing { RecordReason::Idle } else { RecordReason::Closed };
        let (up, down, messages, app, complete) = (self.up, self.down, self.messages, self.app, self.syn);
        let all = self.duration;
        let record = move |passed: Duration, reason| {
            let part = |number: u64| match (all.as_nanos(), reason) {
                (0, _) | (_, RecordReason::Closed | RecordReason::Idle) => number,
                (all, _) => u64::try_from(u128::from(number) * passed.as_nanos() / all).unwrap_or(number),
            };
            let way = |way: DirectionStats| DirectionStats {
                packets: part(way.packets),
                bytes: part(way.bytes),
                payload: part(way.payload),
                data_packets: part(way.data_packets),
                data_bytes: part(way.data_bytes),
                last: (way.packets > 0).then(|| first + passed),
            };
            let messages = u32::try_from(part(messages.into())).unwrap_or(messages);
            let flow = Flow {
                key,
                up: way(up),
                down: way(down),
                first,
                messages,
                rejected: 0,
                mac: None,
                interface: None,
                facts,
            };
            FlowRecord { flow, app, reason, complete, fields: RecordFields::all() }
        };
        let on_its_way = (1..self.steps(active)).map(move |step| record(active * step, RecordReason::Active));
        on_its_way.chain(std::iter::once(record(all, reason)))
    }
}

/// The address `number` of a network, which begins again after its last.
fn nth(net: IpNet, number: u64) -> IpAddr {
    match net {
        IpNet::V4(net) => {
            let hosts = 1_u64 << (32 - net.prefix_len());
            let host = u32::try_from(number % hosts).unwrap_or(0);
            IpAddr::V4((net.network().to_bits() | host).into())
        }
        IpNet::V6(net) => {
            let host = match 128 - net.prefix_len() {
                bits @ 0..64 => u128::from(number) % (1 << bits),
                _ => u128::from(number),
            };
            IpAddr::V6((net.network().to_bits() | host).into())
        }
    }
}
