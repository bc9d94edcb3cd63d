//! Quantities of a flow that rules sum: payload, bytes and packets of both directions, and messages.

use serde::{Deserialize, Serialize};

use super::record::Flow;

/// Quantity that rules can sum.
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
}

impl Quantity {
    /// All quantities.
    pub const ALL: [Quantity; 7] = [
        Quantity::PayloadUp,
        Quantity::PayloadDown,
        Quantity::BytesUp,
        Quantity::BytesDown,
        Quantity::PacketsUp,
        Quantity::PacketsDown,
        Quantity::Messages,
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
        }
    }
}

/// Values of all quantities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quantities([u64; 7]);

impl Quantities {
    /// Returns the quantities of `flow`.
    pub(crate) fn of(flow: &Flow) -> Self {
        let (up, down) = (&flow.up, &flow.down);
        let messages = u64::from(flow.messages);
        Self([up.payload, down.payload, up.bytes, down.bytes, up.packets, down.packets, messages])
    }

    /// Returns the value of a quantity.
    pub(crate) fn get(&self, quantity: Quantity) -> u64 {
        let [payload_up, payload_down, bytes_up, bytes_down, packets_up, packets_down, messages] = self.0;
        match quantity {
            Quantity::PayloadUp => payload_up,
            Quantity::PayloadDown => payload_down,
            Quantity::BytesUp => bytes_up,
            Quantity::BytesDown => bytes_down,
            Quantity::PacketsUp => packets_up,
            Quantity::PacketsDown => packets_down,
            Quantity::Messages => messages,
        }
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
