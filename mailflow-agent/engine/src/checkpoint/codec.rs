//! Serialised form of flows, flow records and keys: the only one.
//!
//! The checkpoint, the journal, the input log and the sorted runs of `backtest` use it. Types of this crate derive their
//! form: their fields in order, in postcard (whole numbers as varints). The types of mailflow-common do not depend on
//! serde, and have their forms here, for `#[serde(with = "...")]`.
//!
//! A new field or variant changes the form of all files: it needs another number of their format.

use serde::{Serialize, de::DeserializeOwned};

pub use postcard::Error;

/// Appends the serialised form of a value.
///
/// # Errors
/// A sequence does not know its length.
pub fn append(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
    postcard::serialize_with_flavor(value, AppendFlavor(out))
}

/// Decodes a value.
///
/// # Errors
/// The bytes do not begin with the serialised form of such a value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(bytes)
}

/// Decodes the first value, and removes it from the slice.
///
/// # Errors
/// The bytes do not begin with the serialised form of such a value.
pub fn decode_first<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<T, Error> {
    let (value, rest) = postcard::take_from_bytes(bytes)?;
    *bytes = rest;
    Ok(value)
}

/// Serialiser that appends to a vector.
struct AppendFlavor<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for AppendFlavor<'_> {
    type Output = ();

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, data: u8) -> Result<(), Error> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> Result<(), Error> {
        Ok(())
    }
}

/// Form of a flow key: endpoints, protocol, IP version, and VLAN ids, the outer first.
pub(crate) mod flow_key {
    use std::net::IpAddr;

    use mailflow_common::{FlowKey, Scope, Vlans};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Form {
        client: (IpAddr, u16),
        server: (IpAddr, u16),
        protocol: u8,
        /// True for IPv6 packets; their addresses may be v4-mapped.
        v6: bool,
        /// Zero for no tag.
        vlans: [u16; 2],
    }

    pub(crate) fn serialize<S: Serializer>(key: &FlowKey, to: S) -> Result<S::Ok, S::Error> {
        let mut vlans = [0; 2];
        vlans.iter_mut().zip(key.scope.vlans().tags()).for_each(|(slot, tag)| *slot = tag);
        let form = Form {
            client: (key.client.ip(), key.client_port),
            server: (key.server.ip(), key.server_port),
            protocol: key.scope.protocol(),
            v6: key.scope.v6(),
            vlans,
        };
        form.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<FlowKey, D::Error> {
        let Form { client, server, protocol, v6, vlans } = Form::deserialize(from)?;
        let vlans = vlans.into_iter().fold(Vlans::default(), Vlans::push);
        Ok(FlowKey {
            client: client.0.into(),
            server: server.0.into(),
            client_port: client.1,
            server_port: server.1,
            scope: Scope::new(vlans, protocol, v6),
        })
    }
}

/// Form of the key of a source's overflow counters: source, server port, protocol.
pub(crate) mod source_key {
    use std::net::IpAddr;

    use mailflow_common::SourceOverflowKey;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(key: &SourceOverflowKey, to: S) -> Result<S::Ok, S::Error> {
        (key.source.ip(), key.server_port, key.protocol).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SourceOverflowKey, D::Error> {
        let (source, server_port, protocol) = <(IpAddr, u16, u16)>::deserialize(from)?;
        Ok(SourceOverflowKey { source: source.into(), server_port, protocol })
    }
}

/// Form of the TCP and application facts: a byte each.
pub(crate) mod facts {
    use mailflow_common::Facts;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::flow::facts_bytes;

    pub(crate) fn serialize<S: Serializer>(facts: &Facts, to: S) -> Result<S::Ok, S::Error> {
        facts_bytes(facts).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Facts, D::Error> {
        let [
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
        ] = Deserialize::deserialize(from)?;
        Ok(Facts {
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
        })
    }
}

/// Form of an application: its position in [`App::ALL`](mailflow_common::App::ALL).
pub(crate) mod app {
    use mailflow_common::App;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(app: &App, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(*app as u8)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<App, D::Error> {
        let number = u8::deserialize(from)?;
        App::ALL.get(usize::from(number)).copied().ok_or_else(|| D::Error::custom("unknown application"))
    }

    /// Form of a list of applications.
    pub(crate) mod list {
        use super::*;

        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        struct Form(#[serde(with = "super")] App);

        pub(crate) fn serialize<S: Serializer>(apps: &[App], to: S) -> Result<S::Ok, S::Error> {
            to.collect_seq(apps.iter().map(|app| Form(*app)))
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<App>, D::Error> {
            Ok(Vec::<Form>::deserialize(from)?.into_iter().map(|Form(app)| app).collect())
        }
    }
}

/// Form of the fields of a record: their bits.
pub(crate) mod fields {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::flow::RecordFields;

    pub(crate) fn serialize<S: Serializer>(fields: &RecordFields, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(fields.bits())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<RecordFields, D::Error> {
        u8::deserialize(from).map(RecordFields::from_bits_retain)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, num::NonZeroU32};

    use mailflow_common::{App, Facts, FlowKey, Scope, SourceOverflowKey, Vlans};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        flow::{DirectionStats, Flow, FlowRecord, RecordFields, RecordReason, SourceOverflow},
        time::Time,
    };

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
        any::<[u8; 10]>().prop_map(|bytes| {
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
        })
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
            records.iter().for_each(|record| append(&mut bytes, record).unwrap());
            let mut rest = bytes.as_slice();
            for record in &records {
                let decoded: FlowRecord = decode_first(&mut rest).unwrap();
                prop_assert_eq!(&decoded, record);
            }
            prop_assert!(rest.is_empty());
            // A truncated record cannot be decoded.
            let mut cut = &bytes[..bytes.len() - 1];
            prop_assert!((0..records.len()).any(|_| decode_first::<FlowRecord>(&mut cut).is_err()));
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
    fn applications_are_numbered_in_their_order() {
        assert!(App::ALL.iter().enumerate().all(|(number, app)| *app as usize == number));
    }

    #[test]
    fn an_unknown_application_is_refused() {
        #[derive(Debug, serde::Deserialize)]
        struct Stored(#[serde(with = "super::app")] App);
        assert!(matches!(decode(&[2]), Ok(Stored(App::Smtps))));
        assert!(decode::<Stored>(&[App::ALL.len() as u8]).is_err());
    }
}
