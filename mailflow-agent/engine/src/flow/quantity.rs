//! Quantities of a flow that rules sum and bound: payload, bytes, packets and packets with payload of both directions,
//! and messages.

use serde::{Deserialize, Serialize};

use super::record::Flow;

/// Quantity of a flow that rules can sum and bound. The positions of the variants are in stored definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Quantity {
    /// Payload bytes, client to server.
    PayloadUp,
    /// Payload bytes, server to client.
    PayloadDown,
    /// IP bytes, client to server.
    BytesUp,
    /// IP bytes, server to client.
    BytesDown,
    /// Packets, client to server.
    PacketsUp,
    /// Packets, server to client.
    PacketsDown,
    /// Estimated messages.
    Messages,
    /// Packets with payload, client to server.
    DataPacketsUp,
    /// Packets with payload, server to client.
    DataPacketsDown,
}

impl Quantity {
    /// All quantities.
    pub const ALL: [Quantity; 9] = [
        Quantity::PayloadUp,
        Quantity::PayloadDown,
        Quantity::BytesUp,
        Quantity::BytesDown,
        Quantity::PacketsUp,
        Quantity::PacketsDown,
        Quantity::Messages,
        Quantity::DataPacketsUp,
        Quantity::DataPacketsDown,
    ];

    /// Returns the name in configuration, alerts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Quantity::PayloadUp => "payload_up",
            Quantity::PayloadDown => "payload_down",
            Quantity::BytesUp => "bytes_up",
            Quantity::BytesDown => "bytes_down",
            Quantity::PacketsUp => "packets_up",
            Quantity::PacketsDown => "packets_down",
            Quantity::Messages => "messages",
            Quantity::DataPacketsUp => "data_packets_up",
            Quantity::DataPacketsDown => "data_packets_down",
        }
    }

    /// Returns the unit, in the plural.
    pub const fn unit(self) -> &'static str {
        match self {
            Quantity::PayloadUp | Quantity::PayloadDown | Quantity::BytesUp | Quantity::BytesDown => "bytes",
            Quantity::PacketsUp
            | Quantity::PacketsDown
            | Quantity::DataPacketsUp
            | Quantity::DataPacketsDown => "packets",
            Quantity::Messages => "messages",
        }
    }

    /// Returns the value of the quantity for `flow`.
    pub fn of(self, flow: &Flow) -> u64 {
        match self {
            Quantity::PayloadUp => flow.up.payload,
            Quantity::PayloadDown => flow.down.payload,
            Quantity::BytesUp => flow.up.bytes,
            Quantity::BytesDown => flow.down.bytes,
            Quantity::PacketsUp => flow.up.packets,
            Quantity::PacketsDown => flow.down.packets,
            Quantity::Messages => u64::from(flow.messages),
            Quantity::DataPacketsUp => flow.up.data_packets,
            Quantity::DataPacketsDown => flow.down.data_packets,
        }
    }
}

/// Values of all quantities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quantities([u64; Quantity::ALL.len()]);

impl Quantities {
    /// Returns the quantities of `flow`.
    pub(crate) fn of(flow: &Flow) -> Self {
        Self(Quantity::ALL.map(|quantity| quantity.of(flow)))
    }

    /// Returns the value of a quantity.
    pub(crate) fn get(&self, quantity: Quantity) -> u64 {
        // `ALL`, and so the values, are in the order of the variants.
        self.0[quantity as usize]
    }

    /// Returns the increase since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut increase = self.0;
        for (value, before) in increase.iter_mut().zip(before.0) {
            *value = value.saturating_sub(before);
        }
        Self(increase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn each_quantity_is_its_own_counter() {
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        (flow.up.payload, flow.down.payload) = (1, 2);
        (flow.up.bytes, flow.down.bytes) = (3, 4);
        (flow.up.packets, flow.down.packets) = (5, 6);
        flow.messages = 7;
        (flow.up.data_packets, flow.down.data_packets) = (8, 9);
        let quantities = Quantities::of(&flow);
        assert_eq!(Quantity::ALL.map(|quantity| quantities.get(quantity)), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(Quantity::ALL.map(|quantity| quantity.of(&flow)), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
