//! Serialised form of flows and records.

use std::{net::IpAddr, num::NonZeroU32};

use mailflow_common::{App, Facts, FlowKey, Scope, SourceOverflowKey, Vlans};
use serde::{Deserialize, Serialize};

use crate::{
    flow::{DirectionStats, Flow, FlowRecord, RecordReason, fields::RecordFields},
    time::Time,
};

/// Saved flow key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedFlowKey {
    client: (IpAddr, u16),
    server: (IpAddr, u16),
    protocol: u8,
    /// VLAN ids, the outer first.
    tags: Vec<u16>,
}

impl From<&FlowKey> for SavedFlowKey {
    fn from(key: &FlowKey) -> Self {
        Self {
            client: (key.client.ip(), key.client_port),
            server: (key.server.ip(), key.server_port),
            protocol: key.scope.protocol(),
            tags: key.scope.vlans().tags().collect(),
        }
    }
}

impl From<&SavedFlowKey> for FlowKey {
    fn from(key: &SavedFlowKey) -> Self {
        let vlans = key.tags.iter().fold(Vlans::default(), |vlans, tag| vlans.push(*tag));
        FlowKey {
            client: key.client.0.into(),
            server: key.server.0.into(),
            client_port: key.client.1,
            server_port: key.server.1,
            scope: Scope::new(vlans, key.protocol, key.client.0.is_ipv6()),
        }
    }
}

/// Saved key of a source's overflow counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedOverflowKey {
    source: IpAddr,
    port: u16,
    protocol: u16,
}

impl From<&SourceOverflowKey> for SavedOverflowKey {
    fn from(key: &SourceOverflowKey) -> Self {
        Self { source: key.source.ip(), port: key.server_port, protocol: key.protocol }
    }
}

impl From<&SavedOverflowKey> for SourceOverflowKey {
    fn from(key: &SavedOverflowKey) -> Self {
        let (server_port, protocol) = (key.port, key.protocol);
        SourceOverflowKey { source: key.source.into(), server_port, protocol }
    }
}

/// Saved flow record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedRecord {
    key: SavedFlowKey,
    first: Time,
    up: SavedDirection,
    down: SavedDirection,
    messages: u32,
    rejected: u32,
    mac: Option<[u8; 6]>,
    interface: Option<NonZeroU32>,
    /// SYN, SYN-ACK, FIN up, FIN down, RST, seen directions, first payloads up and down, upgrade.
    facts: [u8; 9],
    app: String,
    reason: String,
    complete: bool,
    fields: u8,
}

/// Packets, bytes, payload, data packets and data bytes of a direction; time of the last packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedDirection([u64; 5], Option<Time>);

impl From<&DirectionStats> for SavedDirection {
    fn from(direction: &DirectionStats) -> Self {
        Self(
            [
                direction.packets,
                direction.bytes,
                direction.payload,
                direction.data_packets,
                direction.data_bytes,
            ],
            direction.last,
        )
    }
}

impl From<&SavedDirection> for DirectionStats {
    fn from(
        SavedDirection([packets, bytes, payload, data_packets, data_bytes], last): &SavedDirection,
    ) -> Self {
        let (packets, bytes, payload) = (*packets, *bytes, *payload);
        Self { packets, bytes, payload, data_packets: *data_packets, data_bytes: *data_bytes, last: *last }
    }
}

impl From<&FlowRecord> for SavedRecord {
    fn from(record: &FlowRecord) -> Self {
        let Flow { key, up, down, first, messages, rejected, mac, interface, facts } = &record.flow;
        Self {
            key: key.into(),
            first: *first,
            up: up.into(),
            down: down.into(),
            messages: *messages,
            rejected: *rejected,
            mac: *mac,
            interface: *interface,
            facts: [
                facts.syn,
                facts.syn_ack,
                facts.fin_up,
                facts.fin_down,
                facts.reset,
                facts.seen,
                facts.first_payload_up,
                facts.first_payload_down,
                facts.upgrade,
            ],
            app: record.app.name().to_owned(),
            reason: record.reason.name().to_owned(),
            complete: record.complete,
            fields: record.fields.bits(),
        }
    }
}

impl SavedRecord {
    /// Returns the record, or `None` if its application or reason is unknown to this version.
    pub(crate) fn record(&self) -> Option<FlowRecord> {
        let [syn, syn_ack, fin_up, fin_down, reset, seen, first_payload_up, first_payload_down, upgrade] =
            self.facts;
        let facts = Facts {
            syn,
            syn_ack,
            fin_up,
            fin_down,
            reset,
            seen,
            first_payload_up,
            first_payload_down,
            upgrade,
            ..Facts::default()
        };
        let flow = Flow {
            key: (&self.key).into(),
            up: (&self.up).into(),
            down: (&self.down).into(),
            first: self.first,
            messages: self.messages,
            rejected: self.rejected,
            mac: self.mac,
            interface: self.interface,
            facts,
        };
        let app = App::ALL.into_iter().find(|app| app.name() == self.app)?;
        let reason = RecordReason::ALL.into_iter().find(|reason| reason.name() == self.reason)?;
        let fields = RecordFields::from_bits_truncate(self.fields);
        Some(FlowRecord { flow, app, reason, complete: self.complete, fields })
    }
}

/// Serialisation of applications by name. Names that are unknown to this version are omitted.
pub(crate) mod apps {
    use mailflow_common::App;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(apps: &[App], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(apps.iter().map(|app| app.name()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<App>, D::Error> {
        let names = Vec::<String>::deserialize(from)?;
        let app = |name: &String| App::ALL.into_iter().find(|app| app.name() == name);
        Ok(names.iter().filter_map(app).collect())
    }
}

/// Serialisation of records. Records with names that are unknown to this version are omitted.
pub(crate) mod records {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::checkpoint::codec::{FlowRecord, SavedRecord};

    pub(crate) fn serialize<S: Serializer>(records: &[Arc<FlowRecord>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(records.iter().map(|record| SavedRecord::from(&**record)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Arc<FlowRecord>>, D::Error> {
        let records = Vec::<SavedRecord>::deserialize(from)?;
        Ok(records.iter().filter_map(|record| record.record().map(Arc::new)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn records_survive_serialisation() {
        let mut record = (*fixture::record(fixture::at(100))).clone();
        record.flow.key.scope = Scope::new(Vlans::default().push(20).push(7), 6, false);
        (record.flow.mac, record.flow.down.last) = (Some([2, 0, 0, 0, 0, 9]), None);
        (record.flow.facts.upgrade, record.flow.facts.first_payload_down) = (1, 2);
        let text = serde_json::to_string(&SavedRecord::from(&record)).unwrap();
        assert_eq!(serde_json::from_str::<SavedRecord>(&text).unwrap().record(), Some(record));
        let v6 = fixture::flow("[fd00::1]:4000", "[2620:fe::fe]:25").key;
        assert_eq!(FlowKey::from(&SavedFlowKey::from(&v6)), v6);
        let spill = SourceOverflowKey { source: v6.client, server_port: 25, protocol: 6 };
        assert_eq!(SourceOverflowKey::from(&SavedOverflowKey::from(&spill)), spill);
    }
}
