//! Serialised form of flows, flow records and keys: the only one.
//!
//! The checkpoint, the journal, the input log and the sorted runs of `backtest` use it. The form is compact and quick to
//! read: numbers are LEB128, and the times of a flow are differences to its event time, in zigzag encoding. In files
//! these bytes are part of postcard values ([`append`], [`decode`]), whose other types derive their form.
//!
//! A new field changes the form of all files: it needs another number of their format.

use std::num::NonZeroU32;

use mailflow_common::{Address, App, Facts, FlowKey, Scope, SourceOverflowKey, Vlans};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error as _};

use crate::{
    flow::{DirectionStats, Flow, FlowRecord, RecordFields, RecordReason, SourceOverflow},
    time::Time,
};

pub use postcard::Error;

/// Largest size of the form of any of these values.
pub const MAX_ENCODED_BYTES: usize = 256;

/// Value with a compact form.
pub trait Compact: Sized {
    /// Appends the form.
    fn write(&self, out: &mut Vec<u8>);

    /// Decodes the first value, and removes it from the slice; `None` if the bytes begin with no such value.
    fn read(from: &mut &[u8]) -> Option<Self>;
}

impl Compact for FlowKey {
    fn write(&self, out: &mut Vec<u8>) {
        let vlans = self.scope.vlans();
        let v6 = self.scope.v6() || [self.client, self.server].iter().any(|address| !is_v4(*address));
        let tags = vlans.tags().count() as u8;
        out.push(flag_if(v6, key_flag::V6_ADDRESSES) | tags);
        for address in [self.client, self.server] {
            if v6 {
                address.halves().iter().for_each(|half| out.extend(half.to_le_bytes()));
            } else {
                out.extend(address.last_word().to_le_bytes());
            }
        }
        out.extend(self.client_port.to_le_bytes());
        out.extend(self.server_port.to_le_bytes());
        out.push(self.scope.protocol() | flag_if(self.scope.v6(), key_flag::V6_SCOPE));
        vlans.tags().for_each(|tag| out.extend(tag.to_le_bytes()));
    }

    #[inline]
    fn read(from: &mut &[u8]) -> Option<Self> {
        let [flags] = take(from)?;
        let (client, server) = if flags & key_flag::V6_ADDRESSES == 0 {
            (Address::v4(u32::from_le_bytes(take(from)?)), Address::v4(u32::from_le_bytes(take(from)?)))
        } else {
            (read_address(from)?, read_address(from)?)
        };
        let client_port = u16::from_le_bytes(take(from)?);
        let server_port = u16::from_le_bytes(take(from)?);
        let [protocol] = take(from)?;
        let mut vlans = Vlans::default();
        for _ in 0..flags & key_flag::TAGS {
            vlans = vlans.push(u16::from_le_bytes(take(from)?));
        }
        let v6 = protocol & key_flag::V6_SCOPE != 0;
        let scope = Scope::new(vlans, protocol & !key_flag::V6_SCOPE, v6);
        Some(FlowKey { client, server, client_port, server_port, scope })
    }
}

impl Compact for SourceOverflowKey {
    fn write(&self, out: &mut Vec<u8>) {
        self.source.halves().iter().for_each(|half| out.extend(half.to_le_bytes()));
        out.extend(self.server_port.to_le_bytes());
        out.extend(self.protocol.to_le_bytes());
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let source = read_address(from)?;
        let server_port = u16::from_le_bytes(take(from)?);
        Some(Self { source, server_port, protocol: u16::from_le_bytes(take(from)?) })
    }
}

/// The event time comes first.
impl Compact for Flow {
    fn write(&self, out: &mut Vec<u8>) {
        let Flow { key, up, down, first, messages, rejected, mac, interface, facts } = self;
        out.reserve(MAX_ENCODED_BYTES);
        let time = self.last();
        out.extend(time.as_nanos().to_le_bytes());
        key.write(out);
        out.push(flow_flags(up, down) | flag_if(mac.is_some(), flow_flag::MAC));
        out.extend(mac.iter().flatten());
        out.extend(facts_bytes(facts));
        write_time(out, time, *first);
        let interface = interface.map_or(0, NonZeroU32::get);
        [*messages, *rejected, interface].into_iter().for_each(|count| write_number(out, u64::from(count)));
        write_direction(out, time, up);
        write_direction(out, time, down);
    }

    #[inline]
    fn read(from: &mut &[u8]) -> Option<Self> {
        let time = Time::from_nanos(u64::from_le_bytes(take(from)?));
        let key = FlowKey::read(from)?;
        let [flags] = take(from)?;
        let mac = if flags & flow_flag::MAC == 0 { None } else { Some(take(from)?) };
        let facts = facts_of(take(from)?);
        let first = read_time(from, time)?;
        let (messages, rejected) = (read_u32(from)?, read_u32(from)?);
        let interface = NonZeroU32::new(read_u32(from)?);
        let up = read_direction(from, time, flags & flow_flag::UP != 0)?;
        let down = read_direction(from, time, flags & flow_flag::DOWN != 0)?;
        Some(Flow { key, up, down, first, messages, rejected, mac, interface, facts })
    }
}

impl Compact for FlowRecord {
    fn write(&self, out: &mut Vec<u8>) {
        let FlowRecord { flow, app, reason, complete, fields } = self;
        flow.write(out);
        out.extend([*app as u8, *reason as u8 | flag_if(*complete, COMPLETE), fields.bits()]);
    }

    #[inline]
    fn read(from: &mut &[u8]) -> Option<Self> {
        let flow = Flow::read(from)?;
        let [app, reason, fields] = take(from)?;
        Some(FlowRecord {
            flow,
            app: *App::ALL.get(usize::from(app))?,
            reason: *RecordReason::ALL.get(usize::from(reason & !COMPLETE))?,
            complete: reason & COMPLETE != 0,
            fields: RecordFields::from_bits_retain(fields),
        })
    }
}

impl Compact for SourceOverflow {
    fn write(&self, out: &mut Vec<u8>) {
        let SourceOverflow { key, up, down, attempts, sessions, is_final } = self;
        let time = self.last().unwrap_or_default();
        out.extend(time.as_nanos().to_le_bytes());
        key.write(out);
        out.push(flow_flags(up, down) | flag_if(*is_final, flow_flag::FINAL));
        [*attempts, *sessions].into_iter().for_each(|count| write_number(out, u64::from(count)));
        write_direction(out, time, up);
        write_direction(out, time, down);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let time = Time::from_nanos(u64::from_le_bytes(take(from)?));
        let key = SourceOverflowKey::read(from)?;
        let [flags] = take(from)?;
        let (attempts, sessions) = (read_u32(from)?, read_u32(from)?);
        let up = read_direction(from, time, flags & flow_flag::UP != 0)?;
        let down = read_direction(from, time, flags & flow_flag::DOWN != 0)?;
        Some(Self { key, up, down, attempts, sessions, is_final: flags & flow_flag::FINAL != 0 })
    }
}

/// Returns the event time of an encoded flow or record. Decodes nothing else.
pub fn event_time(bytes: &[u8]) -> Option<Time> {
    bytes.first_chunk().map(|bytes| Time::from_nanos(u64::from_le_bytes(*bytes)))
}

/// Returns TCP and application facts as bytes.
pub fn facts_bytes(facts: &Facts) -> [u8; 10] {
    [
        facts.syn,
        facts.syn_ack,
        facts.fin_up,
        facts.fin_down,
        facts.reset,
        facts.seen,
        facts.first_payload_up,
        facts.first_payload_down,
        facts.upgrade,
        facts.inspected,
    ]
}

fn facts_of(bytes: [u8; 10]) -> Facts {
    let [syn, syn_ack, fin_up, fin_down, reset, seen, up, down, upgrade, inspected] = bytes;
    let (first_payload_up, first_payload_down) = (up, down);
    Facts {
        syn,
        syn_ack,
        fin_up,
        fin_down,
        reset,
        seen,
        first_payload_up,
        first_payload_down,
        upgrade,
        inspected,
    }
}

/// Bits of a key. The lowest two are the number of VLAN tags.
mod key_flag {
    pub(super) const TAGS: u8 = 3;
    pub(super) const V6_ADDRESSES: u8 = 1 << 2;
    /// Bit next to the protocol.
    pub(super) const V6_SCOPE: u8 = 1 << 7;
}

/// Bits of a flow or of overflow counters: what follows.
mod flow_flag {
    pub(super) const UP: u8 = 1;
    pub(super) const DOWN: u8 = 1 << 1;
    pub(super) const MAC: u8 = 1 << 2;
    pub(super) const FINAL: u8 = 1 << 3;
}

/// Bit next to the reason of a complete record.
const COMPLETE: u8 = 1 << 7;

fn flag_if(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

fn flow_flags(up: &DirectionStats, down: &DirectionStats) -> u8 {
    flag_if(up.last.is_some(), flow_flag::UP) | flag_if(down.last.is_some(), flow_flag::DOWN)
}

fn is_v4(address: Address) -> bool {
    address == Address::v4(address.last_word())
}

fn read_address(from: &mut &[u8]) -> Option<Address> {
    let high = u64::from_le_bytes(take(from)?);
    Some(Address::of_halves([high, u64::from_le_bytes(take(from)?)]))
}

fn write_direction(out: &mut Vec<u8>, time: Time, direction: &DirectionStats) {
    let DirectionStats { packets, bytes, payload, data_packets, data_bytes, last } = *direction;
    let counts = [packets, bytes, payload, data_packets, data_bytes];
    counts.into_iter().for_each(|count| write_number(out, count));
    if let Some(last) = last {
        write_time(out, time, last);
    }
}

#[inline]
fn read_direction(from: &mut &[u8], time: Time, has_last: bool) -> Option<DirectionStats> {
    Some(DirectionStats {
        packets: read_number(from)?,
        bytes: read_number(from)?,
        payload: read_number(from)?,
        data_packets: read_number(from)?,
        data_bytes: read_number(from)?,
        last: if has_last { Some(read_time(from, time)?) } else { None },
    })
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[inline]
fn read_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (index, byte) in from.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            *from = from.get(index + 1..)?;
            return Some(number);
        }
    }
    None
}

fn read_u32(from: &mut &[u8]) -> Option<u32> {
    u32::try_from(read_number(from)?).ok()
}

fn write_time(out: &mut Vec<u8>, event_time: Time, time: Time) {
    let difference = time.as_nanos().wrapping_sub(event_time.as_nanos()) as i64;
    write_number(out, (difference << 1 ^ difference >> 63) as u64);
}

#[inline]
fn read_time(from: &mut &[u8], event_time: Time) -> Option<Time> {
    let zigzag = read_number(from)?;
    let difference = zigzag >> 1 ^ (zigzag & 1).wrapping_neg();
    Some(Time::from_nanos(event_time.as_nanos().wrapping_add(difference)))
}

#[inline]
fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*array)
}

/// Compact form as a byte string, for `#[serde(with = "codec::compact")]`.
pub(crate) mod compact {
    use super::*;

    pub(crate) fn serialize<T: Compact, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(MAX_ENCODED_BYTES);
        value.write(&mut bytes);
        to.serialize_bytes(&bytes)
    }

    pub(crate) fn deserialize<'de, T: Compact, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let mut bytes = <&[u8]>::deserialize(from)?;
        T::read(&mut bytes).filter(|_| bytes.is_empty()).ok_or_else(|| D::Error::custom("no such value"))
    }
}

macro_rules! serialise_as_compact {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                compact::serialize(self, to)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                compact::deserialize(from)
            }
        }
    )*};
}

serialise_as_compact!(Flow, FlowRecord, SourceOverflow);

/// Form of a list of applications: the position of each in [`App::ALL`].
pub(crate) mod apps {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(apps: &[App], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(apps.iter().map(|app| *app as u8))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<App>, D::Error> {
        let numbers = Vec::<u8>::deserialize(from)?.into_iter();
        let app = |number| App::ALL.get(usize::from(number)).copied();
        numbers.map(|number| app(number).ok_or_else(|| D::Error::custom("unknown application"))).collect()
    }
}

/// Appends a value as postcard.
///
/// # Errors
/// A sequence does not know its length.
pub fn append(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
    postcard::serialize_with_flavor(value, AppendFlavor(out))
}

/// Decodes a postcard value.
///
/// # Errors
/// The bytes do not begin with such a value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(bytes)
}

/// Serialiser that appends to a vector.
struct AppendFlavor<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for AppendFlavor<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> Result<(), Error> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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

    fn facts() -> impl Strategy<Value = Facts> {
        any::<[u8; 10]>().prop_map(facts_of)
    }

    fn flow() -> impl Strategy<Value = Flow> {
        let counts = any::<[u32; 3]>();
        let flow = (key(), direction(), direction(), time(), counts, any::<Option<[u8; 6]>>(), facts());
        flow.prop_map(|(key, up, down, first, [messages, rejected, interface], mac, facts)| {
            let interface = NonZeroU32::new(interface);
            Flow { key, up, down, first, messages, rejected, mac, interface, facts }
        })
    }

    fn record() -> impl Strategy<Value = FlowRecord> {
        let app = prop::sample::select(&App::ALL);
        let reason = prop::sample::select(&RecordReason::ALL);
        (flow(), app, reason, any::<bool>(), any::<u8>()).prop_map(|(flow, app, reason, complete, fields)| {
            let fields = RecordFields::from_bits_retain(fields);
            FlowRecord { flow, app, reason, complete, fields }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn records_are_decoded_as_they_were_encoded(records in prop::collection::vec(record(), 1..5)) {
            let mut bytes = Vec::new();
            for record in &records {
                let before = bytes.len();
                record.write(&mut bytes);
                prop_assert!(bytes.len() - before <= MAX_ENCODED_BYTES);
            }
            let mut rest = bytes.as_slice();
            for record in &records {
                prop_assert_eq!(event_time(rest), Some(record.time()));
                prop_assert_eq!(FlowRecord::read(&mut rest), Some(record.clone()));
            }
            prop_assert!(rest.is_empty());
            // A truncated record cannot be decoded.
            let mut cut = &bytes[..bytes.len() - 1];
            prop_assert!((0..records.len()).any(|_| FlowRecord::read(&mut cut).is_none()));
            // As a value in a file.
            let mut file = Vec::new();
            append(&mut file, &records).unwrap();
            prop_assert_eq!(decode::<Vec<FlowRecord>>(&file).unwrap(), records);
            prop_assert!(decode::<Vec<FlowRecord>>(&file[..file.len() - 1]).is_err());
        }

        #[test]
        fn overflow_counters_are_decoded_as_they_were_encoded(
            (source, server_port, protocol) in any::<(IpAddr, u16, u16)>(),
            (up, down) in (direction(), direction()),
            (attempts, sessions, is_final) in any::<(u32, u32, bool)>(),
        ) {
            let key = SourceOverflowKey { source: source.into(), server_port, protocol };
            let overflow = SourceOverflow { key, up, down, attempts, sessions, is_final };
            let mut bytes = Vec::new();
            append(&mut bytes, &overflow).unwrap();
            prop_assert_eq!(decode::<SourceOverflow>(&bytes).unwrap(), overflow);
        }
    }

    #[test]
    fn variants_are_numbered_in_their_order() {
        assert!(App::ALL.iter().enumerate().all(|(number, app)| *app as usize == number));
        assert!(RecordReason::ALL.iter().enumerate().all(|(number, reason)| *reason as usize == number));
    }

    #[test]
    fn unknown_variants_and_surplus_bytes_are_refused() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Apps(#[serde(with = "apps")] Vec<App>);
        assert_eq!(decode(&[1, 2]), Ok(Apps(vec![App::Smtps])));
        assert!(decode::<Apps>(&[1, App::ALL.len() as u8]).is_err());
        let record = (*crate::fixture::record(crate::fixture::at(100))).clone();
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        let encoded = |bytes: &[u8]| [&[bytes.len() as u8], bytes].concat();
        assert_eq!(decode(&encoded(&bytes)), Ok(record));
        for (place, value) in [(bytes.len() - 3, App::ALL.len() as u8), (bytes.len() - 2, 4)] {
            let mut changed = bytes.clone();
            changed[place] = value;
            assert!(decode::<FlowRecord>(&encoded(&changed)).is_err(), "{place}");
        }
        bytes.push(0);
        assert!(decode::<FlowRecord>(&encoded(&bytes)).is_err());
    }
}
