//! Compact encoding of records that wait to be sorted: a third of their size in memory.
//!
//! Numbers are LEB128. A time is its difference to the event time of the record, in zigzag encoding.

use std::num::NonZeroU32;

use mailflow_common::{Address, App, FlowKey, Scope, Vlans};

use super::TimedRecord;
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason, facts_bytes, facts_of},
    time::Time,
};

/// Largest size of an encoded record.
pub(crate) const MAX_ENCODED_BYTES: usize = 256;

/// Bits of the flags after the times.
mod flag {
    pub(crate) const V6: u16 = 1;
    pub(crate) const UP: u16 = 1 << 1;
    pub(crate) const DOWN: u16 = 1 << 2;
    pub(crate) const MAC: u16 = 1 << 3;
    pub(crate) const COMPLETE: u16 = 1 << 4;
    pub(crate) const APP: u32 = 8;
    pub(crate) const REASON: u32 = 12;
    pub(crate) const TAGS: u32 = 14;
}

/// Appends a record.
pub(crate) fn write(out: &mut Vec<u8>, TimedRecord { at, record }: &TimedRecord) {
    let FlowRecord { flow, app, reason, complete, fields: inputs } = record;
    let Flow { key, up, down, first, messages, rejected, mac, interface, facts } = flow;
    let time = record.time();
    out.reserve(MAX_ENCODED_BYTES);
    out.extend(time.as_nanos().to_le_bytes());
    write_time(out, time, *at);

    let v6 = key.scope.v6() || [key.client, key.server].iter().any(|address| !is_v4(*address));
    let vlans = key.scope.vlans();
    let flag_if = |set: bool, flag: u16| if set { flag } else { 0 };
    let reason = RecordReason::ALL.iter().position(|other| other == reason).unwrap_or_default();
    let flags = flag_if(v6, flag::V6)
        | flag_if(up.last.is_some(), flag::UP)
        | flag_if(down.last.is_some(), flag::DOWN)
        | flag_if(mac.is_some(), flag::MAC)
        | flag_if(*complete, flag::COMPLETE)
        | (*app as u16) << flag::APP
        | (reason as u16) << flag::REASON
        | (vlans.tags().count() as u16) << flag::TAGS;
    out.extend(flags.to_le_bytes());
    for address in [key.client, key.server] {
        if v6 {
            address.halves().iter().for_each(|half| out.extend(half.to_le_bytes()));
        } else {
            out.extend(address.last_word().to_le_bytes());
        }
    }
    out.extend(key.client_port.to_le_bytes());
    out.extend(key.server_port.to_le_bytes());
    out.extend([key.scope.protocol() | if key.scope.v6() { 0x80 } else { 0 }, inputs.bits()]);
    vlans.tags().for_each(|tag| out.extend(tag.to_le_bytes()));
    out.extend(mac.iter().flatten());
    out.extend(facts_bytes(facts));
    write_time(out, time, *first);
    let interface = interface.map_or(0, NonZeroU32::get);
    [*messages, *rejected, interface].into_iter().for_each(|count| write_number(out, u64::from(count)));
    for direction in [up, down] {
        let DirectionStats { packets, bytes, payload, data_packets, data_bytes, last } = *direction;
        [packets, bytes, payload, data_packets, data_bytes]
            .into_iter()
            .for_each(|count| write_number(out, count));
        if let Some(last) = last {
            write_time(out, time, last);
        }
    }
}

/// Returns the times that decide the order of records: the time of evaluation, and the event time. Decodes
/// nothing else.
pub(crate) fn order_times(bytes: &[u8]) -> Option<(Time, Time)> {
    let mut from = ByteReader(bytes);
    let time = Time::from_nanos(u64::from_le_bytes(from.take()?));
    Some((from.read_time(time)?, time))
}

/// Decodes the first record, and removes it from the slice.
pub(crate) fn read(bytes: &mut &[u8]) -> Option<TimedRecord> {
    let mut from = ByteReader(bytes);
    let time = Time::from_nanos(u64::from_le_bytes(from.take()?));
    let at = from.read_time(time)?;
    let flags = u16::from_le_bytes(from.take()?);
    let is = |flag: u16| flags & flag != 0;
    let mut address = || {
        Some(if is(flag::V6) {
            let high = u64::from_le_bytes(from.take()?);
            Address::of_halves([high, u64::from_le_bytes(from.take()?)])
        } else {
            Address::v4(u32::from_le_bytes(from.take()?))
        })
    };
    let (client, server) = (address()?, address()?);
    let client_port = u16::from_le_bytes(from.take()?);
    let server_port = u16::from_le_bytes(from.take()?);
    let [protocol, inputs] = from.take()?;
    let mut vlans = Vlans::default();
    for _ in 0..flags >> flag::TAGS {
        vlans = vlans.push(u16::from_le_bytes(from.take()?));
    }
    let scope = Scope::new(vlans, protocol & 0x7f, protocol & 0x80 != 0);
    let mac = if is(flag::MAC) { Some(from.take()?) } else { None };
    let facts = facts_of(from.take()?);
    let first = from.read_time(time)?;
    let mut small = || u32::try_from(from.read_number()?).ok();
    let (messages, rejected, interface) = (small()?, small()?, NonZeroU32::new(small()?));
    let mut direction = |flag: u16| {
        Some(DirectionStats {
            packets: from.read_number()?,
            bytes: from.read_number()?,
            payload: from.read_number()?,
            data_packets: from.read_number()?,
            data_bytes: from.read_number()?,
            last: if is(flag) { Some(from.read_time(time)?) } else { None },
        })
    };
    let (up, down) = (direction(flag::UP)?, direction(flag::DOWN)?);
    let key = FlowKey { client, server, client_port, server_port, scope };
    let record = FlowRecord {
        flow: Flow { key, up, down, first, messages, rejected, mac, interface, facts },
        app: *App::ALL.get(usize::from(flags >> flag::APP & 0xf))?,
        reason: *RecordReason::ALL.get(usize::from(flags >> flag::REASON & 0x3))?,
        complete: is(flag::COMPLETE),
        fields: RecordFields::from_bits_retain(inputs),
    };
    *bytes = from.0;
    Some(TimedRecord { at, record })
}

fn is_v4(address: Address) -> bool {
    address == Address::v4(address.last_word())
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn write_time(out: &mut Vec<u8>, event_time: Time, time: Time) {
    let difference = time.as_nanos().wrapping_sub(event_time.as_nanos()) as i64;
    write_number(out, (difference << 1 ^ difference >> 63) as u64);
}

/// Bytes that are still to be decoded.
struct ByteReader<'a>(&'a [u8]);

impl ByteReader<'_> {
    #[inline]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    #[inline]
    fn read_number(&mut self) -> Option<u64> {
        let mut number = 0;
        for (index, byte) in self.0.iter().enumerate().take(10) {
            number |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.0 = self.0.get(index + 1..)?;
                return Some(number);
            }
        }
        None
    }

    #[inline]
    fn read_time(&mut self, time: Time) -> Option<Time> {
        let zigzag = self.read_number()?;
        let difference = zigzag >> 1 ^ (zigzag & 1).wrapping_neg();
        Some(Time::from_nanos(time.as_nanos().wrapping_add(difference)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Time> {
        prop_oneof![
            Just(0),
            Just(u64::MAX),
            any::<u64>(),
            1_700_000_000_000_000_000..1_700_000_100_000_000_000_u64
        ]
        .prop_map(Time::from_nanos)
    }

    fn direction() -> impl Strategy<Value = DirectionStats> {
        let count = || prop_oneof![0..200_u64, any::<u64>()];
        let counts = (count(), count(), count(), count(), count());
        (counts, prop::option::of(time())).prop_map(
            |((packets, bytes, payload, data_packets, data_bytes), last)| DirectionStats {
                packets,
                bytes,
                payload,
                data_packets,
                data_bytes,
                last,
            },
        )
    }

    fn key() -> impl Strategy<Value = FlowKey> {
        let ips = (any::<IpAddr>(), any::<IpAddr>());
        (ips, any::<[u16; 2]>(), prop::collection::vec(any::<u16>(), 0..3), 0..128_u8, any::<bool>())
            .prop_map(|((client, server), [client_port, server_port], tags, protocol, v6)| FlowKey {
                client: client.into(),
                server: server.into(),
                client_port,
                server_port,
                scope: Scope::new(tags.into_iter().fold(Vlans::default(), Vlans::push), protocol, v6),
            })
    }

    /// Returns arbitrary records.
    fn record() -> impl Strategy<Value = TimedRecord> {
        let counts = any::<[u32; 3]>();
        let flow =
            (key(), direction(), direction(), time(), counts, any::<Option<[u8; 6]>>(), any::<[u8; 10]>());
        let flow = flow.prop_map(|(key, up, down, first, [messages, rejected, interface], mac, facts)| {
            let facts = facts_of(facts);
            let interface = NonZeroU32::new(interface);
            Flow { key, up, down, first, messages, rejected, mac, interface, facts }
        });
        let reason = prop::sample::select(&RecordReason::ALL);
        (time(), flow, prop::sample::select(&App::ALL), reason, any::<bool>(), any::<u8>()).prop_map(
            |(at, flow, app, reason, complete, inputs)| {
                let inputs = RecordFields::from_bits_retain(inputs);
                TimedRecord { at, record: FlowRecord { flow, app, reason, complete, fields: inputs } }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn records_are_decoded_as_they_were_encoded(records in prop::collection::vec(record(), 1..5)) {
            let mut bytes = Vec::new();
            for record in &records {
                let before = bytes.len();
                write(&mut bytes, record);
                prop_assert!(bytes.len() - before <= MAX_ENCODED_BYTES);
            }
            let mut rest = bytes.as_slice();
            for record in &records {
                prop_assert_eq!(order_times(rest), Some((record.at, record.record.time())));
                prop_assert_eq!(read(&mut rest), Some(record.clone()));
            }
            prop_assert!(rest.is_empty());
            // A truncated record cannot be decoded.
            let mut cut = &bytes[..bytes.len() - 1];
            prop_assert!((0..records.len()).any(|_| read(&mut cut).is_none()));
        }
    }

    #[test]
    fn applications_are_numbered_in_their_order() {
        assert!(App::ALL.iter().enumerate().all(|(number, app)| *app as usize == number));
    }
}
