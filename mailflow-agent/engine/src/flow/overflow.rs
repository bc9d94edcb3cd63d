//! Source overflow: counters by source for packets of flows without an entry in the flow table.

use std::{collections::HashMap, net::IpAddr};

use mailflow_common::{Facts, FlowKey, Scope, SourceOverflowKey, Vlans};

use super::{
    delta::{CounterDelta, Delta},
    quantity::{Quantities, Quantity},
    record::{DirectionStats, Flow},
};
use crate::time::Time;

/// Overflow counters of a source, by server port and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOverflow {
    /// Source, server port and protocol.
    pub key: SourceOverflowKey,
    /// Client to server, cumulative.
    pub up: DirectionStats,
    /// Server to client, cumulative.
    pub down: DirectionStats,
    /// SYNs, including retransmissions.
    pub attempts: u32,
    /// SYN-ACKs.
    pub sessions: u32,
    /// True if this is the last report of these counters: later packets are counted from zero.
    pub is_final: bool,
}

impl SourceOverflow {
    /// Returns the time of the last packet of either direction.
    pub fn last(&self) -> Option<Time> {
        self.up.last.max(self.down.last)
    }
}

/// Increase of a source's overflow counters, for the rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverflowDelta {
    pub(crate) time: Time,
    pub(crate) client: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: u8,
    pub(crate) quantities: Quantities,
}

/// Last observed overflow counters.
#[derive(Debug, Default)]
pub(crate) struct SourceOverflowTable {
    last_seen: HashMap<SourceOverflowKey, Quantities>,
}

impl SourceOverflowTable {
    /// Returns the delta since the last observation, for the metrics and for the rules; `None` without an increase.
    pub(crate) fn observe(&mut self, overflow: &SourceOverflow) -> Option<(Delta, OverflowDelta)> {
        let flow = Flow { up: overflow.up, down: overflow.down, ..placeholder_flow(&overflow.key) };
        let now = Quantities::of(&flow);
        let previous = if overflow.is_final {
            self.last_seen.remove(&overflow.key)
        } else {
            self.last_seen.insert(overflow.key, now)
        };
        let quantities = now.since(&previous.unwrap_or_default());
        if quantities == Quantities::default() {
            return None;
        }
        let counter_delta =
            |packets, bytes| CounterDelta { packets: quantities.get(packets), bytes: quantities.get(bytes) };
        let delta = Delta {
            key: flow.key,
            up: counter_delta(Quantity::PacketsUp, Quantity::BytesUp),
            down: counter_delta(Quantity::PacketsDown, Quantity::BytesDown),
            messages: 0,
            new_flow: false,
        };
        let overflow_delta = OverflowDelta {
            time: overflow.last().unwrap_or_default(),
            client: flow.client(),
            port: flow.key.server_port,
            protocol: flow.key.scope.protocol(),
            quantities,
        };
        Some((delta, overflow_delta))
    }

    /// Returns the last observed counters, for a checkpoint.
    pub(crate) fn last_seen(&self) -> impl Iterator<Item = (&SourceOverflowKey, &Quantities)> {
        self.last_seen.iter()
    }

    /// Restores the last observed counters of a checkpoint.
    pub(crate) fn restore(&mut self, key: SourceOverflowKey, last_seen: Quantities) {
        self.last_seen.insert(key, last_seen);
    }
}

/// Returns a flow that has only the fields that overflow counters have.
fn placeholder_flow(key: &SourceOverflowKey) -> Flow {
    Flow {
        key: placeholder_key(key),
        up: DirectionStats::default(),
        down: DirectionStats::default(),
        first: Time::ZERO,
        messages: 0,
        rejected: 0,
        mac: None,
        interface: None,
        facts: Facts::default(),
    }
}

/// Returns a flow key without server address and client port.
fn placeholder_key(key: &SourceOverflowKey) -> FlowKey {
    let v6 = key.source.ip().is_ipv6();
    // The number is below 128, as `Scope::new` requires.
    let scope = Scope::new(Vlans::default(), key.protocol as u8, v6);
    FlowKey { client: key.source, server_port: key.server_port, scope, ..FlowKey::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overflow(packets: u64, is_final: bool) -> SourceOverflow {
        let source = "10.0.0.9".parse::<IpAddr>().unwrap().into();
        let key = SourceOverflowKey { source, server_port: 25, protocol: 6 };
        let up = DirectionStats { packets, bytes: packets * 60, ..DirectionStats::default() };
        SourceOverflow { key, up, down: DirectionStats::default(), attempts: 0, sessions: 0, is_final }
    }

    #[test]
    fn each_packet_is_in_one_delta() {
        let mut table = SourceOverflowTable::default();
        let mut delta_of = |packets, is_final| {
            table.observe(&overflow(packets, is_final)).map(|(delta, _)| delta.up.packets)
        };
        assert_eq!(delta_of(3, false), Some(3));
        assert_eq!(delta_of(3, false), None);
        assert_eq!(delta_of(5, true), Some(2));
        assert_eq!(delta_of(4, false), Some(4), "counted from zero");
        let (delta, counter_delta) = table.observe(&overflow(6, false)).unwrap();
        assert_eq!((delta.key.client.ip().to_string().as_str(), delta.key.server_port), ("10.0.0.9", 25));
        assert!(!delta.new_flow);
        assert_eq!(
            (counter_delta.port, counter_delta.protocol, counter_delta.quantities.get(Quantity::PacketsUp)),
            (25, 6, 2)
        );
    }
}
