//! Messages and the records in them, as they are on the wire: all numbers big endian.

use std::{net::IpAddr, num::NonZeroU32};

use mailflow_common::Facts;

use super::{
    gains::Both,
    template::{self, V4, V6},
};
use crate::outputs::eve::flow::flow_id;
use mailflow_engine::{
    flow::{FlowRecord, RecordReason},
    time::{Time, WallClockOffset},
};

/// Version number of IPFIX.
const VERSION: u16 = 10;
/// Bytes of a message's header.
#[cfg(test)]
const HEADER: usize = 16;
/// Bytes of a set's header.
const SET: usize = 4;

/// TCP's flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A data record.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    /// Of which template.
    set: u16,
    bytes: Vec<u8>,
}

impl Data {
    /// The record of what a flow gained.
    pub(crate) fn of(record: &FlowRecord, gain: &Both, epoch: WallClockOffset) -> Self {
        let flow = &record.flow;
        let mut bytes = Vec::with_capacity(112);
        let mut set = V4;
        for ip in [flow.client(), flow.server()] {
            match ip {
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => {
                    set = V6;
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
        for direction in [gain.up, gain.down] {
            bytes.extend(direction.bytes.to_be_bytes());
            bytes.extend(direction.packets.to_be_bytes());
        }
        bytes.extend(flags(&flow.facts));
        bytes.push(end_reason(record.reason));
        // The client is the initiator.
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

    /// Its bytes in a message.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// A message in the making.
pub(crate) struct Message {
    bytes: Vec<u8>,
    largest: usize,
    /// The set that is open: its id and where it begins.
    open: Option<(u16, usize)>,
}

impl Message {
    /// A message of at most `largest` bytes. `sequence` are the data records sent before it.
    pub(crate) fn new(largest: usize, seconds: u32, sequence: u32, domain: u32) -> Self {
        let mut bytes = Vec::with_capacity(largest);
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(seconds.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(domain.to_be_bytes());
        Self { bytes, largest, open: None }
    }

    /// Adds the templates, and a data record that names the observation domain. Comes first.
    pub(crate) fn templates(&mut self, domain: u32, name: &str) {
        self.bytes.extend(template::set());
        self.bytes.extend(template::domain(domain, name));
    }

    /// Adds a record if there is room for it.
    pub(crate) fn add(&mut self, data: &Data) -> bool {
        let continues = self.open.is_some_and(|(set, _)| set == data.set);
        let needed = data.bytes.len() + if continues { 0 } else { SET };
        if self.bytes.len() + needed > self.largest {
            return false;
        }
        if !continues {
            self.end_set();
            self.open = Some((data.set, self.bytes.len()));
            self.bytes.extend(data.set.to_be_bytes());
            self.bytes.extend([0; 2]);
        }
        self.bytes.extend(&data.bytes);
        true
    }

    /// The message, with its lengths.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.end_set();
        let length = self.bytes.len() as u16;
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }

    fn end_set(&mut self) {
        if let Some((_, begin)) = self.open.take() {
            let length = (self.bytes.len() - begin) as u16;
            self.bytes[begin + 2..begin + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// The flags that were seen of each direction, as far as the facts tell; whose RST it was they do not.
fn flags(facts: &Facts) -> [u8; 2] {
    let flag = |fact: u8, flag: u8| if fact != 0 { flag } else { 0 };
    let reset = flag(facts.reset, RST);
    [
        flag(facts.syn, SYN) | flag(facts.fin_up, FIN) | reset,
        flag(facts.syn_ack, SYN | ACK) | flag(facts.fin_down, FIN) | reset,
    ]
}

/// IANA's flowEndReason.
const fn end_reason(reason: RecordReason) -> u8 {
    match reason {
        RecordReason::Idle => 1,
        RecordReason::Active => 2,
        RecordReason::Closed => 3,
        RecordReason::Shutdown => 4,
    }
}

fn millis(time: Time, epoch: WallClockOffset) -> u64 {
    u64::try_from(epoch.unix_nanos(time).div_euclid(1_000_000)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_its_bound_and_its_lengths() {
        let data = |set| Data { set, bytes: vec![7; template::length(set)] };
        let mut message = Message::new(1_232, 1, 2, 3);
        message.templates(3, &"ä".repeat(200));
        let mut added = 0;
        while message.add(&data(if added % 3 == 0 { V6 } else { V4 })) {
            added += 1;
        }
        let bytes = message.finish();
        assert!(added > 3 && bytes.len() <= 1_232, "{added} {}", bytes.len());
        let short = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        assert_eq!((short(0), short(2)), (10, bytes.len()));
        let (mut at, mut records) = (HEADER, 0);
        while at < bytes.len() {
            let (id, length) = (short(at), short(at + 2));
            if id == usize::from(template::DOMAIN) {
                assert_eq!(length, SET + 4 + 1 + 254, "cut between two characters");
            } else if id >= 256 {
                let each = template::length(id as u16);
                assert_eq!((length - SET) % each, 0);
                records += (length - SET) / each;
            }
            at += length;
        }
        assert_eq!((at, records), (bytes.len(), added));
    }
}
