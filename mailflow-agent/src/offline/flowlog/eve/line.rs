//! Structure of EVE flow lines, mailflow's own and Suricata's.

use crate::offline::flowlog::{
    endpoints::LogEndpoints,
    error::LineError,
    json,
    text::{LogProtocol, LogTimestamp, MacAddress, Parsed, TcpFlags},
};
use mailflow_common::Vlans;
use mailflow_engine::flow::RecordFields;
use serde::{Deserialize, Deserializer};
use std::{borrow::Cow, net::IpAddr};

/// String that is borrowed from the line if it has no escapes.
#[derive(Debug, Deserialize)]
pub(crate) struct CowStr<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// EVE flow line.
#[derive(Debug, Deserialize)]
pub(crate) struct EveFlowLine<'a> {
    #[serde(borrow)]
    pub(crate) event_type: CowStr<'a>,
    pub(crate) src_ip: Parsed<IpAddr>,
    pub(crate) src_port: Option<u16>,
    pub(crate) dest_ip: Parsed<IpAddr>,
    pub(crate) dest_port: Option<u16>,
    pub(crate) proto: Parsed<LogProtocol>,
    #[serde(borrow)]
    pub(crate) app_proto: Option<CowStr<'a>>,
    /// Suricata: the protocol before the upgrade to TLS.
    #[serde(borrow)]
    pub(crate) app_proto_orig: Option<CowStr<'a>>,
    #[serde(default, deserialize_with = "tags")]
    pub(crate) vlan: Vec<u16>,
    #[serde(borrow)]
    pub(crate) flow: EveCounters<'a>,
    pub(crate) tcp: Option<EveTcp>,
    #[serde(borrow)]
    pub(crate) mailflow: Option<MailflowFields<'a>>,
}

impl EveFlowLine<'_> {
    /// Returns the endpoints; `None` for a protocol without ports.
    pub(crate) fn endpoints(&self, line: &[u8]) -> Result<Option<LogEndpoints>, LineError> {
        if self.proto.0 == LogProtocol::Other {
            return Ok(None);
        }
        let port = |port: Option<u16>, name: &str| {
            port.ok_or_else(|| LineError::new(line.len(), "", format!("missing field `{name}`")))
        };
        let vlans = self.vlan.iter().fold(Vlans::default(), |vlans, tag| vlans.push(*tag));
        Ok(Some(LogEndpoints {
            source: (self.src_ip.0, port(self.src_port, "src_port")?),
            destination: (self.dest_ip.0, port(self.dest_port, "dest_port")?),
            proto: self.proto.0,
            vlans,
        }))
    }

    /// Returns the times of the first and the last packet.
    pub(crate) fn times(&self, line: &[u8]) -> Result<(LogTimestamp, LogTimestamp), LineError> {
        let (Parsed(start), Parsed(end)) = (self.flow.start, self.flow.end);
        if end.0 < start.0 {
            return Err(LineError::new(json::column(line, "flow.end"), "flow.end", "lies before flow.start"));
        }
        Ok((start, end))
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct EveCounters<'a> {
    #[serde(deserialize_with = "nullable")]
    pub(crate) pkts_toserver: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) bytes_toserver: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) pkts_toclient: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) bytes_toclient: Option<u64>,
    pub(crate) start: Parsed<LogTimestamp>,
    pub(crate) end: Parsed<LogTimestamp>,
    #[serde(borrow)]
    pub(crate) state: Option<CowStr<'a>>,
    #[serde(borrow)]
    pub(crate) reason: Option<CowStr<'a>>,
}

impl EveCounters<'_> {
    /// Returns the fields that are recorded for both directions.
    pub(crate) fn inputs(&self) -> RecordFields {
        let both = |one: Option<u64>, other: Option<u64>| one.and(other).is_some();
        let mut inputs = RecordFields::empty();
        inputs.set(RecordFields::PACKETS, both(self.pkts_toserver, self.pkts_toclient));
        inputs.set(RecordFields::BYTES, both(self.bytes_toserver, self.bytes_toclient));
        inputs
    }
}

/// Reads a number that must exist, and may be null: evidence has null for unknown values.
pub(crate) fn nullable<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(from)
}

/// Reads VLAN tags: a list, one tag, null, or nothing.
pub(crate) fn tags<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a VLAN tag from 0 to 65535, or a list of them")]
    enum Tags {
        List(Vec<u16>),
        One(u16),
    }
    Ok(match Option::<Tags>::deserialize(from)? {
        Some(Tags::List(tags)) => tags,
        Some(Tags::One(tag)) => vec![tag],
        None => Vec::new(),
    })
}

/// Fields that mailflow adds to EVE.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct MailflowFields<'a> {
    pub(crate) payload_up: Option<u64>,
    pub(crate) payload_down: Option<u64>,
    pub(crate) data_packets_up: Option<u64>,
    pub(crate) data_packets_down: Option<u64>,
    pub(crate) data_bytes_up: Option<u64>,
    pub(crate) data_bytes_down: Option<u64>,
    pub(crate) messages_estimated: Option<u32>,
    pub(crate) messages_rejected: Option<u32>,
    #[serde(borrow)]
    pub(crate) app_evidence: Option<CowStr<'a>>,
    pub(crate) complete: Option<bool>,
    pub(crate) syn: Option<bool>,
    pub(crate) synack: Option<bool>,
    pub(crate) mptcp_join: Option<bool>,
    pub(crate) mac: Option<Parsed<MacAddress>>,
}

/// TCP flags that Suricata saw in each direction, of all packets together.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct EveTcp {
    pub(crate) tcp_flags_ts: Option<Parsed<TcpFlags>>,
    pub(crate) tcp_flags_tc: Option<Parsed<TcpFlags>>,
}
