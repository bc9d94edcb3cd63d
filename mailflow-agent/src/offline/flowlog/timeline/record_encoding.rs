//! Records that wait to be sorted, encoded: a third of their size in memory. The time of evaluation comes first, then the
//! record in the engine's form, which begins with its event time: these two decide the order.

use super::TimedRecord;
use mailflow_engine::{
    checkpoint::codec::{self, Compact},
    flow::FlowRecord,
    time::Time,
};

/// Largest size of an encoded record.
pub(crate) const MAX_ENCODED_BYTES: usize = codec::MAX_ENCODED_BYTES + TIME_BYTES;

const TIME_BYTES: usize = size_of::<u64>();

/// Appends a record.
pub(crate) fn write(out: &mut Vec<u8>, TimedRecord { at, record }: &TimedRecord) {
    out.reserve(MAX_ENCODED_BYTES);
    out.extend(at.as_nanos().to_le_bytes());
    record.write(out);
}

/// Returns the times that decide the order of records: the time of evaluation, and the event time. Decodes
/// nothing else.
pub(crate) fn order_times(bytes: &[u8]) -> Option<(Time, Time)> {
    let (at, record) = bytes.split_first_chunk::<TIME_BYTES>()?;
    Some((Time::from_nanos(u64::from_le_bytes(*at)), codec::event_time(record)?))
}

/// Decodes the first record, and removes it from the slice.
pub(crate) fn read(bytes: &mut &[u8]) -> Option<TimedRecord> {
    let (at, mut rest) = bytes.split_first_chunk::<TIME_BYTES>()?;
    let (at, record) = (Time::from_nanos(u64::from_le_bytes(*at)), FlowRecord::read(&mut rest)?);
    *bytes = rest;
    Some(TimedRecord { at, record })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use mailflow_common::{App, Facts, FlowKey, Scope, Vlans};

    use super::*;
    use mailflow_engine::flow::{DirectionStats, Flow, RecordFields, RecordReason};

    #[test]
    fn the_longest_record_is_decoded_as_it_was_encoded() {
        let direction = DirectionStats {
            packets: u64::MAX,
            bytes: u64::MAX,
            payload: u64::MAX,
            data_packets: u64::MAX,
            data_bytes: u64::MAX,
            last: Some(Time::END),
        };
        let address = || std::net::IpAddr::from([0xfd; 16]).into();
        let key = FlowKey {
            client: address(),
            server: address(),
            client_port: u16::MAX,
            server_port: u16::MAX,
            scope: Scope::new(Vlans::default().push(4_095).push(4_095), 127, true),
        };
        let flow = Flow {
            key,
            up: direction,
            down: direction,
            first: Time::from_nanos(1 << 62),
            messages: u32::MAX,
            rejected: u32::MAX,
            mac: Some([0xff; 6]),
            interface: NonZeroU32::new(u32::MAX),
            facts: Facts { syn: 255, inspected: 255, ..Facts::default() },
        };
        let (app, reason, fields) = (App::Unseen, RecordReason::Shutdown, RecordFields::all());
        let record = TimedRecord {
            at: Time::END - std::time::Duration::from_nanos(1),
            record: FlowRecord { flow, app, reason, complete: true, fields },
        };
        let mut bytes = Vec::new();
        write(&mut bytes, &record);
        assert!(bytes.len() <= MAX_ENCODED_BYTES, "{}", bytes.len());
        assert_eq!(order_times(&bytes), Some((record.at, Time::END)));
        let mut rest = bytes.as_slice();
        assert_eq!(read(&mut rest), Some(record));
        assert!(rest.is_empty());
    }
}
