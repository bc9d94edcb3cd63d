//! Records of the flows of a rule test.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use mailflow_common::{Facts, FlowKey, PROTOCOL_TCP, Scope, Vlans};

use super::{flow::RawFlow, flow_template::SynAnswer};
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason},
    time::Time,
};

/// First client port that is assigned.
const FIRST_CLIENT_PORT: u16 = 32_768;

impl RawFlow {
    /// Returns the number of records of each flow.
    pub(crate) fn record_count(&self, active: Duration) -> u32 {
        let steps = self.duration.as_nanos().div_ceil(active.as_nanos().max(1)).max(1);
        u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// Returns the records of the flow `number` of this item: an interim one at the end of each active
    /// timeout, with evenly grown counters, and a final one. `previous_records` is the number of records that
    /// the test already has.
    pub(crate) fn records(
        &self,
        number: u64,
        start: Time,
        previous_records: usize,
        active: Duration,
    ) -> impl Iterator<Item = FlowRecord> + use<> {
        let offset = self.interval.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        let first = start + self.at + offset;
        let ports = u64::from(u16::MAX - FIRST_CLIENT_PORT) + 1;
        let default_port = FIRST_CLIENT_PORT + u16::try_from(previous_records as u64 % ports).unwrap_or(0);
        let client_port = self.client_port.unwrap_or(default_port);
        let [client, server] = [nth_address(self.source, number), nth_address(self.destination, number)];
        let key = FlowKey {
            client: client.into(),
            server: server.into(),
            client_port,
            server_port: self.port,
            scope: Scope::new(Vlans::default(), PROTOCOL_TCP, client.is_ipv6()),
        };
        let facts = Facts {
            syn: u8::from(self.syn),
            syn_ack: u8::from(self.answer == SynAnswer::SynAck),
            seen: u8::from(self.answer != SynAnswer::Nothing),
            reset: u8::from(self.answer == SynAnswer::Reset),
            fin_up: u8::from(self.answer == SynAnswer::SynAck),
            fin_down: u8::from(self.answer == SynAnswer::SynAck),
            ..Facts::NONE
        };
        let reason =
            if self.answer == SynAnswer::Nothing { RecordReason::Idle } else { RecordReason::Closed };
        let (up, down, messages, app, complete) = (self.up, self.down, self.messages, self.app, self.syn);
        let total = self.duration;
        let record = move |elapsed: Duration, reason| {
            let share = |number: u64| match (total.as_nanos(), reason) {
                (0, _) | (_, RecordReason::Closed | RecordReason::Idle) => number,
                (total, _) => {
                    u64::try_from(u128::from(number) * elapsed.as_nanos() / total).unwrap_or(number)
                }
            };
            let direction = |direction: DirectionStats| DirectionStats {
                packets: share(direction.packets),
                bytes: share(direction.bytes),
                payload: share(direction.payload),
                data_packets: share(direction.data_packets),
                data_bytes: share(direction.data_bytes),
                last: (direction.packets > 0).then(|| first + elapsed),
            };
            let messages = u32::try_from(share(messages.into())).unwrap_or(messages);
            let flow = Flow {
                key,
                up: direction(up),
                down: direction(down),
                first,
                messages,
                rejected: 0,
                mac: None,
                interface: None,
                facts,
            };
            FlowRecord { flow, app, reason, complete, fields: RecordFields::all() }
        };
        let interim =
            (1..self.record_count(active)).map(move |step| record(active * step, RecordReason::Active));
        interim.chain(std::iter::once(record(total, reason)))
    }
}

/// Returns the address `number` of a network. The first address follows the last one.
fn nth_address(net: IpNet, number: u64) -> IpAddr {
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
