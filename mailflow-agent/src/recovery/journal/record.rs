//! What is in the journal and in the history, as bytes.

use std::num::NonZeroU32;

use mailflow_common::FlowKey;
use serde::{Deserialize, Serialize};

use super::output_offsets::Mark;
use mailflow_engine::{
    flow::{Direction, Finished, Flow, RecordReason, facts_bytes, facts_of},
    spill::Spill,
    time::Time,
};
use mailflow_kernel::{parse_source_key, source_key_bytes};

/// An entry of the journal: what a poll does to the tables, before it does it.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A poll begins.
    Poll {
        /// Its moment.
        now: Time,
        /// Where the clock's beginning lies on the wall clock, by which the poll's lines are written.
        epoch: i128,
    },
    /// A flow ended and is to be taken out of the table.
    Ended(Flow),
    /// It was not: it had gained packets.
    Lives(Flow),
    /// A finished flow is to be taken out, with its entry's sums.
    Finished(Finished, Vec<u8>),
    /// A flow lives, and a record of it was made.
    Active(Flow),
    /// A source's overflow is to be taken out.
    Spilled(Spill),
    /// The poll is over, and the history has its records.
    Over,
    /// The outputs have written all of the entries before; these are the files they write to.
    Written(Vec<Mark>),
    /// The state of this moment has all of the entries before.
    Kept(u64),
}

/// A record that the rules have judged, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// When.
    pub at: Time,
    /// The flow.
    pub flow: Flow,
    /// Why the record was made.
    pub reason: RecordReason,
    /// True if it is no record: an open flow was shown because of what it gained.
    pub open: bool,
}

/// Either, as it is written.
#[derive(Serialize, Deserialize)]
pub(crate) enum Line {
    Poll { now: u64, epoch: i128 },
    Ended(Plain),
    Lives(Plain),
    Finished(Plain, u64, Vec<u8>),
    Active(Plain),
    Spilled(Vec<u8>, Way, Way, u32, u32),
    Over,
    Written(Vec<Mark>),
    Kept(u64),
    Judged(u64, Plain, u8, bool),
}

type Way = (u64, u64, u64, u64, u64, Option<u64>);

/// A flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plain {
    #[serde(with = "packed")]
    key: FlowKey,
    up: Way,
    down: Way,
    first: u64,
    messages: u32,
    rejected: u32,
    mac: Option<[u8; 6]>,
    interface: Option<NonZeroU32>,
    facts: [u8; 10],
}

impl Entry {
    pub(crate) fn line(&self) -> Line {
        match self {
            Self::Poll { now, epoch } => Line::Poll { now: now.as_nanos(), epoch: *epoch },
            Self::Ended(flow) => Line::Ended(plain(flow)),
            Self::Lives(flow) => Line::Lives(plain(flow)),
            Self::Finished(Finished { flow, replaced }, sums) => {
                Line::Finished(plain(flow), replaced.as_nanos(), sums.clone())
            }
            Self::Active(flow) => Line::Active(plain(flow)),
            Self::Spilled(spill) => {
                let key = source_key_bytes(&spill.key);
                Line::Spilled(key, way(&spill.up), way(&spill.down), spill.attempts, spill.sessions)
            }
            Self::Over => Line::Over,
            Self::Written(files) => Line::Written(files.clone()),
            Self::Kept(now) => Line::Kept(*now),
        }
    }

    /// From bytes; `None` where they are no entry of a journal.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        Some(match postcard::from_bytes(bytes).ok()? {
            Line::Poll { now, epoch } => Self::Poll { now: Time::from_nanos(now), epoch },
            Line::Ended(plain) => Self::Ended(flow(plain)),
            Line::Lives(plain) => Self::Lives(flow(plain)),
            Line::Finished(plain, replaced, sums) => {
                Self::Finished(Finished { flow: flow(plain), replaced: Time::from_nanos(replaced) }, sums)
            }
            Line::Active(plain) => Self::Active(flow(plain)),
            Line::Spilled(key, up, down, attempts, sessions) => {
                let key = parse_source_key(&key)?;
                Self::Spilled(Spill {
                    key,
                    up: direction(up),
                    down: direction(down),
                    attempts,
                    sessions,
                    over: true,
                })
            }
            Line::Over => Self::Over,
            Line::Written(files) => Self::Written(files),
            Line::Kept(now) => Self::Kept(now),
            Line::Judged(..) => return None,
        })
    }
}

impl Judged {
    pub(crate) fn line(&self) -> Line {
        let reason = RecordReason::ALL.iter().position(|reason| *reason == self.reason).unwrap_or(0);
        Line::Judged(self.at.as_nanos(), plain(&self.flow), reason as u8, self.open)
    }

    /// From bytes; `None` where they are none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        match postcard::from_bytes(bytes).ok()? {
            Line::Judged(at, plain, reason, open) => Some(Self {
                at: Time::from_nanos(at),
                flow: flow(plain),
                reason: *RecordReason::ALL.get(usize::from(reason))?,
                open,
            }),
            _ => None,
        }
    }
}

fn way(way: &Direction) -> Way {
    let Direction { packets, bytes, payload, data_packets, data_bytes, last } = *way;
    (packets, bytes, payload, data_packets, data_bytes, last.map(Time::as_nanos))
}

fn direction((packets, bytes, payload, data_packets, data_bytes, last): Way) -> Direction {
    Direction { packets, bytes, payload, data_packets, data_bytes, last: last.map(Time::from_nanos) }
}

pub(crate) fn plain(flow: &Flow) -> Plain {
    Plain {
        key: flow.key,
        up: way(&flow.up),
        down: way(&flow.down),
        first: flow.first.as_nanos(),
        messages: flow.messages,
        rejected: flow.rejected,
        mac: flow.mac,
        interface: flow.interface,
        facts: facts_bytes(&flow.facts),
    }
}

pub(crate) fn flow(plain: Plain) -> Flow {
    Flow {
        key: plain.key,
        up: direction(plain.up),
        down: direction(plain.down),
        first: Time::from_nanos(plain.first),
        messages: plain.messages,
        rejected: plain.rejected,
        mac: plain.mac,
        interface: plain.interface,
        facts: facts_of(plain.facts),
    }
}

/// A flow's key as its bytes.
mod packed {
    use mailflow_common::FlowKey;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use mailflow_kernel::{flow_key_bytes, parse_flow_key};

    pub(crate) fn serialize<S: Serializer>(key: &FlowKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(flow_key_bytes(key))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FlowKey, D::Error> {
        parse_flow_key(Deserialize::deserialize(deserializer)?)
            .ok_or_else(|| D::Error::custom("no flow's key"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use mailflow_common::{Address, Facts};

    use super::*;

    pub(crate) fn some_flow(port: u16) -> Flow {
        let at = |seconds: u64| Time::from_nanos(seconds * 1_000_000_000);
        let way = |n| Direction {
            packets: n,
            bytes: n * 100,
            payload: n * 50,
            data_packets: 1,
            data_bytes: 2,
            last: Some(at(n)),
        };
        let address = |ip: &str| Address::from(ip.parse::<std::net::IpAddr>().unwrap());
        let key = FlowKey {
            client: address("2001:db8::1"),
            server: address("192.0.2.1"),
            client_port: port,
            server_port: 25,
            ..FlowKey::default()
        };
        let facts = Facts { syn: 1, inspected: 3, upgrade: 2, ..Facts::NONE };
        Flow {
            key,
            up: way(7),
            down: Direction::default(),
            first: at(3),
            messages: 2,
            rejected: 1,
            mac: Some([1, 2, 3, 4, 5, 6]),
            interface: NonZeroU32::new(7),
            facts,
        }
    }

    fn bytes(line: &Line) -> Vec<u8> {
        postcard::to_stdvec(line).unwrap()
    }

    #[test]
    fn a_key_that_is_cut_is_no_entry() {
        let [whole, cut] = [40, 39].map(|length| {
            let key = vec![0u8; length];
            let way: Way = (0, 0, 0, 0, 0, None);
            // As `Line::Ended` is written.
            postcard::to_stdvec(&(
                1u8,
                key,
                way,
                way,
                0u64,
                [0u32; 2],
                None::<[u8; 6]>,
                None::<u32>,
                [0u8; 10],
            ))
            .unwrap()
        });
        assert!(matches!(Entry::read(&whole), Some(Entry::Ended(flow)) if flow.key == FlowKey::default()));
        assert_eq!(Entry::read(&cut), None);
    }

    #[test]
    fn entries_come_back() {
        let flow = some_flow(4_000);
        let spill = Spill {
            key: mailflow_common::SourceOverflowKey { source: flow.key.client, server_port: 25, protocol: 6 },
            up: flow.up,
            down: flow.down,
            attempts: 3,
            sessions: 2,
            over: true,
        };
        for entry in [
            Entry::Poll { now: Time::from_nanos(9), epoch: -5 },
            Entry::Ended(flow.clone()),
            Entry::Lives(flow.clone()),
            Entry::Finished(Finished { flow: flow.clone(), replaced: Time::from_nanos(11) }, vec![1, 2]),
            Entry::Active(flow.clone()),
            Entry::Spilled(spill),
            Entry::Over,
        ] {
            assert_eq!(Entry::read(&bytes(&entry.line())), Some(entry));
        }
        let judged = Judged { at: Time::from_nanos(8), flow, reason: RecordReason::Shutdown, open: true };
        assert_eq!(Judged::read(&bytes(&judged.line())), Some(judged.clone()));
        assert_eq!(Entry::read(&bytes(&judged.line())), None);
        assert_eq!(Entry::read(&[99, 1, 2]), None);
    }
}
