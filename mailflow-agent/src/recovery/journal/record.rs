//! Records of the journal and of the input log, and their serialised form.

use std::num::NonZeroU32;

use mailflow_common::FlowKey;
use serde::{Deserialize, Serialize};

use super::output_offsets::FileOffset;
use mailflow_engine::{
    flow::{DirectionStats, Flow, RecordReason, SourceOverflow, SupersededFlow, facts_bytes, facts_of},
    time::Time,
};
use mailflow_kernel::{parse_source_key, source_key_bytes};

/// Record of the write-ahead journal: a change of a poll to the kernel maps, written before the change.
#[derive(Clone, Debug, PartialEq)]
pub enum JournalRecord {
    /// A poll begins.
    PollBegin {
        /// Time of the poll.
        now: Time,
        /// Offset of the monotonic clock from the wall clock, for the output lines of the poll.
        epoch: i128,
    },
    /// A flow ended, and is about to be evicted.
    FlowEnded(Flow),
    /// The eviction was rejected, as the flow had gained packets.
    EvictionRejected(Flow),
    /// A superseded flow is about to be removed from its map, with the counts of its map entry.
    FlowSuperseded(SupersededFlow, Vec<u8>),
    /// An interim record of an open flow was made.
    FlowInterim(Flow),
    /// Overflow counters of a source are about to be removed.
    SourceOverflow(SourceOverflow),
    /// The poll is complete, and its rule inputs are in the input log.
    PollEnd,
    /// The outputs have written the lines of all records before. The offsets are those of the output files.
    OutputsWritten(Vec<FileOffset>),
    /// The checkpoint of this time includes all records before.
    Checkpoint(u64),
}

/// Flow record that the rules evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedInput {
    /// Time of the evaluation.
    pub at: Time,
    /// Flow.
    pub flow: Flow,
    /// Reason of the record.
    pub reason: RecordReason,
    /// True for an open flow without a record, which was evaluated because of its gain.
    pub open: bool,
}

/// Serialised form of both types. The order of the variants is the format.
#[derive(Serialize, Deserialize)]
pub(crate) enum RecordRepr {
    PollBegin { now: u64, epoch: i128 },
    FlowEnded(FlowRepr),
    EvictionRejected(FlowRepr),
    FlowSuperseded(FlowRepr, u64, Vec<u8>),
    FlowInterim(FlowRepr),
    SourceOverflow(Vec<u8>, DirectionRepr, DirectionRepr, u32, u32),
    PollEnd,
    OutputsWritten(Vec<FileOffset>),
    Checkpoint(u64),
    RuleInput(u64, FlowRepr, u8, bool),
}

type DirectionRepr = (u64, u64, u64, u64, u64, Option<u64>);

/// Serialised form of a flow. The order of the fields is the format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FlowRepr {
    #[serde(with = "packed_key")]
    key: FlowKey,
    up: DirectionRepr,
    down: DirectionRepr,
    first: u64,
    messages: u32,
    rejected: u32,
    mac: Option<[u8; 6]>,
    interface: Option<NonZeroU32>,
    facts: [u8; 10],
}

impl JournalRecord {
    pub(crate) fn to_repr(&self) -> RecordRepr {
        match self {
            Self::PollBegin { now, epoch } => RecordRepr::PollBegin { now: now.as_nanos(), epoch: *epoch },
            Self::FlowEnded(flow) => RecordRepr::FlowEnded(to_repr(flow)),
            Self::EvictionRejected(flow) => RecordRepr::EvictionRejected(to_repr(flow)),
            Self::FlowSuperseded(SupersededFlow { flow, superseded_at: replaced }, sums) => {
                RecordRepr::FlowSuperseded(to_repr(flow), replaced.as_nanos(), sums.clone())
            }
            Self::FlowInterim(flow) => RecordRepr::FlowInterim(to_repr(flow)),
            Self::SourceOverflow(spill) => {
                let key = source_key_bytes(&spill.key);
                RecordRepr::SourceOverflow(
                    key,
                    to_direction_repr(&spill.up),
                    to_direction_repr(&spill.down),
                    spill.attempts,
                    spill.sessions,
                )
            }
            Self::PollEnd => RecordRepr::PollEnd,
            Self::OutputsWritten(files) => RecordRepr::OutputsWritten(files.clone()),
            Self::Checkpoint(now) => RecordRepr::Checkpoint(*now),
        }
    }

    /// Decodes a journal record; `None` if the bytes are no journal record.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        Some(match postcard::from_bytes(bytes).ok()? {
            RecordRepr::PollBegin { now, epoch } => Self::PollBegin { now: Time::from_nanos(now), epoch },
            RecordRepr::FlowEnded(repr) => Self::FlowEnded(from_repr(repr)),
            RecordRepr::EvictionRejected(repr) => Self::EvictionRejected(from_repr(repr)),
            RecordRepr::FlowSuperseded(repr, replaced, sums) => Self::FlowSuperseded(
                SupersededFlow { flow: from_repr(repr), superseded_at: Time::from_nanos(replaced) },
                sums,
            ),
            RecordRepr::FlowInterim(repr) => Self::FlowInterim(from_repr(repr)),
            RecordRepr::SourceOverflow(key, up, down, attempts, sessions) => {
                let key = parse_source_key(&key)?;
                Self::SourceOverflow(SourceOverflow {
                    key,
                    up: from_direction_repr(up),
                    down: from_direction_repr(down),
                    attempts,
                    sessions,
                    is_final: true,
                })
            }
            RecordRepr::PollEnd => Self::PollEnd,
            RecordRepr::OutputsWritten(files) => Self::OutputsWritten(files),
            RecordRepr::Checkpoint(now) => Self::Checkpoint(now),
            RecordRepr::RuleInput(..) => return None,
        })
    }
}

impl LoggedInput {
    pub(crate) fn to_repr(&self) -> RecordRepr {
        let reason = RecordReason::ALL.iter().position(|reason| *reason == self.reason).unwrap_or(0);
        RecordRepr::RuleInput(self.at.as_nanos(), to_repr(&self.flow), reason as u8, self.open)
    }

    /// Decodes an input; `None` if the bytes are no input.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        match postcard::from_bytes(bytes).ok()? {
            RecordRepr::RuleInput(at, repr, reason, open) => Some(Self {
                at: Time::from_nanos(at),
                flow: from_repr(repr),
                reason: *RecordReason::ALL.get(usize::from(reason))?,
                open,
            }),
            _ => None,
        }
    }
}

fn to_direction_repr(direction: &DirectionStats) -> DirectionRepr {
    let DirectionStats { packets, bytes, payload, data_packets, data_bytes, last } = *direction;
    (packets, bytes, payload, data_packets, data_bytes, last.map(Time::as_nanos))
}

fn from_direction_repr(
    (packets, bytes, payload, data_packets, data_bytes, last): DirectionRepr,
) -> DirectionStats {
    DirectionStats { packets, bytes, payload, data_packets, data_bytes, last: last.map(Time::from_nanos) }
}

pub(crate) fn to_repr(flow: &Flow) -> FlowRepr {
    FlowRepr {
        key: flow.key,
        up: to_direction_repr(&flow.up),
        down: to_direction_repr(&flow.down),
        first: flow.first.as_nanos(),
        messages: flow.messages,
        rejected: flow.rejected,
        mac: flow.mac,
        interface: flow.interface,
        facts: facts_bytes(&flow.facts),
    }
}

pub(crate) fn from_repr(repr: FlowRepr) -> Flow {
    Flow {
        key: repr.key,
        up: from_direction_repr(repr.up),
        down: from_direction_repr(repr.down),
        first: Time::from_nanos(repr.first),
        messages: repr.messages,
        rejected: repr.rejected,
        mac: repr.mac,
        interface: repr.interface,
        facts: facts_of(repr.facts),
    }
}

/// Serialises a flow key as its bytes.
mod packed_key {
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
        let direction = |n| DirectionStats {
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
            up: direction(7),
            down: DirectionStats::default(),
            first: at(3),
            messages: 2,
            rejected: 1,
            mac: Some([1, 2, 3, 4, 5, 6]),
            interface: NonZeroU32::new(7),
            facts,
        }
    }

    fn bytes(line: &RecordRepr) -> Vec<u8> {
        postcard::to_stdvec(line).unwrap()
    }

    #[test]
    fn a_truncated_key_is_no_record() {
        let [whole, cut] = [40, 39].map(|length| {
            let key = vec![0u8; length];
            let direction: DirectionRepr = (0, 0, 0, 0, 0, None);
            // Same encoding as `RecordRepr::FlowEnded`.
            postcard::to_stdvec(&(
                1u8,
                key,
                direction,
                direction,
                0u64,
                [0u32; 2],
                None::<[u8; 6]>,
                None::<u32>,
                [0u8; 10],
            ))
            .unwrap()
        });
        assert!(
            matches!(JournalRecord::read(&whole), Some(JournalRecord::FlowEnded(flow)) if flow.key == FlowKey::default())
        );
        assert_eq!(JournalRecord::read(&cut), None);
    }

    #[test]
    fn records_are_decoded_as_they_were_encoded() {
        let flow = some_flow(4_000);
        let spill = SourceOverflow {
            key: mailflow_common::SourceOverflowKey { source: flow.key.client, server_port: 25, protocol: 6 },
            up: flow.up,
            down: flow.down,
            attempts: 3,
            sessions: 2,
            is_final: true,
        };
        for record in [
            JournalRecord::PollBegin { now: Time::from_nanos(9), epoch: -5 },
            JournalRecord::FlowEnded(flow.clone()),
            JournalRecord::EvictionRejected(flow.clone()),
            JournalRecord::FlowSuperseded(
                SupersededFlow { flow: flow.clone(), superseded_at: Time::from_nanos(11) },
                vec![1, 2],
            ),
            JournalRecord::FlowInterim(flow.clone()),
            JournalRecord::SourceOverflow(spill),
            JournalRecord::PollEnd,
        ] {
            assert_eq!(JournalRecord::read(&bytes(&record.to_repr())), Some(record));
        }
        let logged_input =
            LoggedInput { at: Time::from_nanos(8), flow, reason: RecordReason::Shutdown, open: true };
        assert_eq!(LoggedInput::read(&bytes(&logged_input.to_repr())), Some(logged_input.clone()));
        assert_eq!(JournalRecord::read(&bytes(&logged_input.to_repr())), None);
        assert_eq!(JournalRecord::read(&[99, 1, 2]), None);
    }
}
