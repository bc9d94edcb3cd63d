//! Starts and ends of the flows of a 5-tuple, computed only from the documented timeouts.

use mailflow_test_support::frame::flag::{ACK, FIN, RST, SYN};
use serde_json::Value;

use super::history::{Packet, Way};

/// Idle timeout after FINs in both directions or an RST, in milliseconds.
const CLOSED: u64 = 5_000;
/// Idle timeout of a SYN without an answer, in milliseconds.
const UNANSWERED: u64 = 127_000;
/// Idle timeout otherwise, in milliseconds.
const IDLE: u64 = 300_000;

/// Fields of a final record that describe the flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    /// Times of the first and the last packet, in milliseconds.
    pub(super) times: (u64, u64),
    /// Packets up and down.
    pub(super) packets: (u64, u64),
    pub(super) bytes: (u64, u64),
    pub(super) payload: (u64, u64),
    pub(super) reason: &'static str,
}

impl Record {
    /// Parses a line of the flow log.
    pub(super) fn read(flow: &Value) -> Self {
        let number = |part: &str, name: &str| flow[part][name].as_u64().unwrap();
        let time = |name: &str| {
            let moment: jiff::Timestamp = flow["flow"][name].as_str().unwrap().parse().unwrap();
            moment.as_millisecond() as u64
        };
        let reasons = ["closed", "idle", "shutdown"];
        Self {
            times: (time("start"), time("end")),
            packets: (number("flow", "pkts_toserver"), number("flow", "pkts_toclient")),
            bytes: (number("flow", "bytes_toserver"), number("flow", "bytes_toclient")),
            payload: (number("mailflow", "payload_up"), number("mailflow", "payload_down")),
            reason: reasons.into_iter().find(|reason| flow["flow"]["reason"] == *reason).unwrap(),
        }
    }
}

/// Packets of a flow so far.
struct Flow<'a>(Vec<&'a Packet>);

impl Flow<'_> {
    fn has(&self, way: Option<Way>, flags: u8, without: u8) -> bool {
        self.0.iter().any(|packet| {
            way.is_none_or(|way| way == packet.way)
                && packet.flags & flags == flags
                && packet.flags & without == 0
        })
    }

    fn closed(&self) -> bool {
        self.has(None, RST, 0) || (self.has(Some(Way::Up), FIN, 0) && self.has(Some(Way::Down), FIN, 0))
    }

    /// Returns the idle timeout.
    fn patience(&self) -> u64 {
        if self.closed() {
            CLOSED
        } else if self.has(Some(Way::Up), SYN, ACK) && !self.0.iter().any(|packet| packet.way == Way::Down) {
            UNANSWERED
        } else {
            IDLE
        }
    }

    /// Returns true if `packet` begins another flow.
    fn ended_before(&self, packet: &Packet) -> bool {
        let last = self.0.last().unwrap();
        let known = |sequence: u32| {
            self.0
                .iter()
                .any(|seen| seen.flags & SYN == SYN && seen.way == Way::Up && seen.sequence == sequence)
        };
        let syn = packet.way == Way::Up && packet.flags & (SYN | ACK) == SYN;
        let fresh = syn && !known(packet.sequence);
        let begun = self.has(Some(Way::Up), SYN, ACK);
        packet.at - last.at >= self.patience() || (fresh && (begun || self.closed()))
    }

    /// Returns the record; `replaced` is true if the next flow superseded this one.
    fn record(&self, replaced: bool) -> Record {
        let sum = |way: Way, value: fn(&Packet) -> u64| {
            self.0.iter().filter(|packet| packet.way == way).map(|packet| value(packet)).sum()
        };
        let both = |value| (sum(Way::Up, value), sum(Way::Down, value));
        Record {
            times: (self.0[0].at, self.0[self.0.len() - 1].at),
            packets: both(|_| 1),
            // IPv4 and TCP headers without options.
            bytes: both(|packet| 40 + packet.payload as u64),
            payload: both(|packet| packet.payload as u64),
            reason: if self.closed() || replaced { "closed" } else { "idle" },
        }
    }
}

/// Returns the records of the packets of one 5-tuple, sorted by time.
pub(super) fn records(packets: &[Packet]) -> Vec<Record> {
    let mut flows: Vec<Flow<'_>> = Vec::new();
    for packet in packets {
        match flows.last_mut() {
            Some(flow) if !flow.ended_before(packet) => flow.0.push(packet),
            _ => flows.push(Flow(vec![packet])),
        }
    }
    let next = flows.iter().skip(1).map(|next| Some(next.0[0])).chain([None]);
    let record = |(flow, next): (&Flow<'_>, Option<&Packet>)| {
        let last = flow.0[flow.0.len() - 1];
        flow.record(next.is_some_and(|next| next.at - last.at < flow.patience()))
    };
    let mut records: Vec<Record> = flows.iter().zip(next).map(record).collect();
    records.sort();
    records
}
