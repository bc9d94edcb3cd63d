//! IPFIX messages and data records on the wire. All numbers are big endian.

use std::{net::IpAddr, num::NonZeroU32};

use mailflow_common::Facts;

use super::{
    delta_tracker::BiflowDelta,
    template::{self, IPV4_TEMPLATE, IPV6_TEMPLATE},
};
use crate::outputs::eve::flow::flow_id;
use mailflow_engine::{
    flow::{FlowRecord, RecordReason},
    time::{Time, WallClockOffset},
};

/// Version number of IPFIX.
const IPFIX_VERSION: u16 = 10;
/// Length of a message header.
#[cfg(test)]
const MESSAGE_HEADER_LENGTH: usize = 16;
/// Length of a set header.
const SET_HEADER_LENGTH: usize = 4;

/// TCP flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Data record.
#[derive(Clone, Debug)]
pub(crate) struct DataRecord {
    /// Template of the record.
    set: u16,
    bytes: Vec<u8>,
}

impl DataRecord {
    /// Creates the record of a flow's delta.
    pub(crate) fn of(record: &FlowRecord, delta: &BiflowDelta, epoch: WallClockOffset) -> Self {
        let flow = &record.flow;
        let mut bytes = Vec::with_capacity(112);
        let mut set = IPV4_TEMPLATE;
        for ip in [flow.client(), flow.server()] {
            match ip {
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => {
                    set = IPV6_TEMPLATE;
                    bytes.extend(ip.octets());
                }
            }
        }
        bytes.extend(flow.key.client_port.to_be_bytes());
        bytes.extend(flow.key.server_port.to_be_bytes());
        bytes.push(flow.key.scope.protocol());
        for time in [flow.first, flow.last()] {
            bytes.extend(millis(time, epoch).to_be_bytes());
        }
        for direction in [delta.up, delta.down] {
            bytes.extend(direction.bytes.to_be_bytes());
            bytes.extend(direction.packets.to_be_bytes());
        }
        bytes.extend(flags(&flow.facts));
        bytes.push(end_reason(record.reason));
        // biflowDirection 1: the client is the initiator.
        bytes.push(1);
        let mut tags = flow.key.scope.vlans().tags();
        for _ in 0..2 {
            bytes.extend(tags.next().unwrap_or(0).to_be_bytes());
        }
        bytes.extend(flow.mac.unwrap_or_default());
        bytes.extend(flow_id(&flow.key, flow.first).to_be_bytes());
        bytes.extend(flow.interface.map_or(0, NonZeroU32::get).to_be_bytes());
        Self { set, bytes }
    }

    /// Returns the length of the record.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// Message under construction.
pub(crate) struct IpfixMessage {
    bytes: Vec<u8>,
    max_bytes: usize,
    /// Open set: its id and its offset.
    open_set: Option<(u16, usize)>,
}

impl IpfixMessage {
    /// Creates a message of at most `max_bytes`. `sequence` is the number of data records sent before it.
    pub(crate) fn new(max_bytes: usize, seconds: u32, sequence: u32, domain: u32) -> Self {
        let mut bytes = Vec::with_capacity(max_bytes);
        bytes.extend(IPFIX_VERSION.to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(seconds.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(domain.to_be_bytes());
        Self { bytes, max_bytes, open_set: None }
    }

    /// Adds the templates and a data record that names the observation domain. Must precede the data records.
    pub(crate) fn add_templates(&mut self, domain: u32, name: &str) {
        self.bytes.extend(template::set());
        self.bytes.extend(template::domain(domain, name));
    }

    /// Adds a record if it fits. Returns true if it was added.
    pub(crate) fn add(&mut self, data: &DataRecord) -> bool {
        let continues = self.open_set.is_some_and(|(set, _)| set == data.set);
        let needed = data.bytes.len() + if continues { 0 } else { SET_HEADER_LENGTH };
        if self.bytes.len() + needed > self.max_bytes {
            return false;
        }
        if !continues {
            self.end_set();
            self.open_set = Some((data.set, self.bytes.len()));
            self.bytes.extend(data.set.to_be_bytes());
            self.bytes.extend([0; 2]);
        }
        self.bytes.extend(&data.bytes);
        true
    }

    /// Returns the message with its lengths filled in.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.end_set();
        let length = self.bytes.len() as u16;
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }

    /// Completes the open set with its length.
    fn end_set(&mut self) {
        if let Some((_, start)) = self.open_set.take() {
            let length = (self.bytes.len() - start) as u16;
            self.bytes[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// Returns the TCP flags of each direction as far as they are known. The direction of an RST is not known, so
/// both have it.
fn flags(facts: &Facts) -> [u8; 2] {
    let flag = |fact: u8, flag: u8| if fact != 0 { flag } else { 0 };
    let reset = flag(facts.reset, RST);
    [
        flag(facts.syn, SYN) | flag(facts.fin_up, FIN) | reset,
        flag(facts.syn_ack, SYN | ACK) | flag(facts.fin_down, FIN) | reset,
    ]
}

/// Returns IANA's flowEndReason.
const fn end_reason(reason: RecordReason) -> u8 {
    match reason {
        RecordReason::Idle => 1,
        RecordReason::Active => 2,
        RecordReason::Closed => 3,
        RecordReason::Shutdown => 4,
    }
}

/// Converts a time to milliseconds since 1970.
fn millis(time: Time, epoch: WallClockOffset) -> u64 {
    u64::try_from(epoch.unix_nanos(time).div_euclid(1_000_000)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_respects_its_size_and_has_correct_lengths() {
        let data = |set| DataRecord { set, bytes: vec![7; template::length(set)] };
        let mut message = IpfixMessage::new(1_232, 1, 2, 3);
        message.add_templates(3, &"ä".repeat(200));
        let mut added = 0;
        while message.add(&data(if added % 3 == 0 { IPV6_TEMPLATE } else { IPV4_TEMPLATE })) {
            added += 1;
        }
        let bytes = message.finish();
        assert!(added > 3 && bytes.len() <= 1_232, "{added} {}", bytes.len());
        let short = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        assert_eq!((short(0), short(2)), (10, bytes.len()));
        let (mut at, mut records) = (MESSAGE_HEADER_LENGTH, 0);
        while at < bytes.len() {
            let (id, length) = (short(at), short(at + 2));
            if id == usize::from(template::DOMAIN_TEMPLATE) {
                assert_eq!(length, SET_HEADER_LENGTH + 4 + 1 + 254, "cut between two characters");
            } else if id >= 256 {
                let each = template::length(id as u16);
                assert_eq!((length - SET_HEADER_LENGTH) % each, 0);
                records += (length - SET_HEADER_LENGTH) / each;
            }
            at += length;
        }
        assert_eq!((at, records), (bytes.len(), added));
    }
}
