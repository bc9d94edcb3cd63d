//! Fields that a flow record carries.
//!
//! The kernel counts all fields. A flow log of another tool may lack some. A missing field is not zero, so a rule
//! that needs it is not evaluated for such a record.

use std::fmt;

use bitflags::bitflags;

bitflags! {
    /// Fields of a flow record, in addition to endpoints and times.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct RecordFields: u8 {
        /// Packets of both directions.
        const PACKETS = 1;
        /// IP bytes of both directions.
        const BYTES = 1 << 1;
        /// Payload bytes of both directions.
        const PAYLOAD = 1 << 2;
        /// Packets with payload of both directions.
        const DATA_PACKETS = 1 << 3;
        /// IP bytes of the packets with payload of both directions.
        const DATA_BYTES = 1 << 4;
        /// Estimated messages.
        const MESSAGES = 1 << 5;
        /// Presence of a SYN.
        const SYN = 1 << 6;
        /// Presence of a SYN-ACK.
        const SYN_ACK = 1 << 7;
    }
}

impl RecordFields {
    /// Returns the names of the fields for messages.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(RecordFields, &str); 8] = [
            (RecordFields::PACKETS, "packets"),
            (RecordFields::BYTES, "IP bytes"),
            (RecordFields::PAYLOAD, "payload bytes"),
            (RecordFields::DATA_PACKETS, "packets with payload"),
            (RecordFields::DATA_BYTES, "IP bytes of packets with payload"),
            (RecordFields::MESSAGES, "estimated messages"),
            (RecordFields::SYN, "SYN"),
            (RecordFields::SYN_ACK, "SYN-ACK"),
        ];
        NAMES.into_iter().filter(move |(field, _)| self.contains(*field)).map(|(_, name)| name)
    }
}

impl fmt::Display for RecordFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_has_a_name() {
        assert_eq!(RecordFields::all().names().count(), RecordFields::all().iter().count());
    }
}
