//! Records of the journal.

use serde::{Deserialize, Serialize};

use super::output_offsets::FileOffset;
use mailflow_engine::{
    flow::{Flow, SourceOverflow, SupersededFlow},
    time::Time,
};

/// Record of the write-ahead journal: a change of a poll to the kernel maps, written before the change.
/// The order of the variants is the format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

#[cfg(test)]
pub(crate) mod tests {
    use std::num::NonZeroU32;

    use mailflow_common::{Address, Facts, FlowKey};

    use super::*;
    use mailflow_engine::{checkpoint::codec, flow::DirectionStats};

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

    #[test]
    fn records_are_decoded_as_they_were_encoded() {
        let flow = some_flow(4_000);
        let source_overflow = SourceOverflow {
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
            JournalRecord::FlowInterim(flow),
            JournalRecord::SourceOverflow(source_overflow),
            JournalRecord::PollEnd,
        ] {
            let mut bytes = Vec::new();
            codec::append(&mut bytes, &record).unwrap();
            assert_eq!(codec::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn a_truncated_record_is_not_decoded() {
        let mut bytes = Vec::new();
        codec::append(&mut bytes, &JournalRecord::FlowEnded(some_flow(4_000))).unwrap();
        assert!(codec::decode::<JournalRecord>(&bytes).is_ok());
        for length in 0..bytes.len() {
            assert!(codec::decode::<JournalRecord>(&bytes[..length]).is_err(), "{length}");
        }
        assert!(codec::decode::<JournalRecord>(&[99, 1, 2]).is_err());
    }
}
