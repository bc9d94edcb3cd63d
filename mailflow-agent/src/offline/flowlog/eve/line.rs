//! EVE flow lines as they are written, mailflow's own and Suricata's.

use crate::offline::flowlog::{
    ends::Ends,
    fault::Fault,
    json,
    text::{Flags, Mac, Moment, Proto, Read},
};
use mailflow_common::Vlans;
use mailflow_engine::flow::RecordFields;
use serde::{Deserialize, Deserializer};
use std::{borrow::Cow, net::IpAddr};

/// A string that is not copied unless it must be.
#[derive(Debug, Deserialize)]
pub(crate) struct Word<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// A flow line.
#[derive(Debug, Deserialize)]
pub(crate) struct Flow<'a> {
    #[serde(borrow)]
    pub(crate) event_type: Word<'a>,
    pub(crate) src_ip: Read<IpAddr>,
    pub(crate) src_port: Option<u16>,
    pub(crate) dest_ip: Read<IpAddr>,
    pub(crate) dest_port: Option<u16>,
    pub(crate) proto: Read<Proto>,
    #[serde(borrow)]
    pub(crate) app_proto: Option<Word<'a>>,
    /// Suricata: what it was before it changed to TLS.
    #[serde(borrow)]
    pub(crate) app_proto_orig: Option<Word<'a>>,
    #[serde(default, deserialize_with = "tags")]
    pub(crate) vlan: Vec<u16>,
    #[serde(borrow)]
    pub(crate) flow: Counters<'a>,
    pub(crate) tcp: Option<Tcp>,
    #[serde(borrow)]
    pub(crate) mailflow: Option<Extra<'a>>,
}

impl Flow<'_> {
    /// The two ends; `None` for a protocol without ports.
    pub(crate) fn ends(&self, line: &[u8]) -> Result<Option<Ends>, Fault> {
        if self.proto.0 == Proto::Other {
            return Ok(None);
        }
        let port = |port: Option<u16>, name: &str| {
            port.ok_or_else(|| Fault::new(line.len(), "", format!("missing field `{name}`")))
        };
        let vlans = self.vlan.iter().fold(Vlans::default(), |vlans, tag| vlans.push(*tag));
        Ok(Some(Ends {
            source: (self.src_ip.0, port(self.src_port, "src_port")?),
            destination: (self.dest_ip.0, port(self.dest_port, "dest_port")?),
            proto: self.proto.0,
            vlans,
        }))
    }

    /// The first and the last packet.
    pub(crate) fn times(&self, line: &[u8]) -> Result<(Moment, Moment), Fault> {
        let (Read(start), Read(end)) = (self.flow.start, self.flow.end);
        if end.0 < start.0 {
            return Err(Fault::new(json::column(line, "flow.end"), "flow.end", "lies before flow.start"));
        }
        Ok((start, end))
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Counters<'a> {
    #[serde(deserialize_with = "nullable")]
    pub(crate) pkts_toserver: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) bytes_toserver: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) pkts_toclient: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) bytes_toclient: Option<u64>,
    pub(crate) start: Read<Moment>,
    pub(crate) end: Read<Moment>,
    #[serde(borrow)]
    pub(crate) state: Option<Word<'a>>,
    #[serde(borrow)]
    pub(crate) reason: Option<Word<'a>>,
}

impl Counters<'_> {
    /// Returns the inputs that both directions have.
    pub(crate) fn inputs(&self) -> RecordFields {
        let both = |one: Option<u64>, other: Option<u64>| one.and(other).is_some();
        let mut inputs = RecordFields::empty();
        inputs.set(RecordFields::PACKETS, both(self.pkts_toserver, self.pkts_toclient));
        inputs.set(RecordFields::BYTES, both(self.bytes_toserver, self.bytes_toclient));
        inputs
    }
}

/// A number that must be there, and may be null: what a log of evidence has for what is not known.
pub(crate) fn nullable<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(from)
}

/// VLAN tags: a list, or one, or null, or none.
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

/// What mailflow adds to an EVE line.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Extra<'a> {
    pub(crate) payload_up: Option<u64>,
    pub(crate) payload_down: Option<u64>,
    pub(crate) data_packets_up: Option<u64>,
    pub(crate) data_packets_down: Option<u64>,
    pub(crate) data_bytes_up: Option<u64>,
    pub(crate) data_bytes_down: Option<u64>,
    pub(crate) messages_estimated: Option<u32>,
    pub(crate) messages_rejected: Option<u32>,
    #[serde(borrow)]
    pub(crate) app_evidence: Option<Word<'a>>,
    pub(crate) complete: Option<bool>,
    pub(crate) syn: Option<bool>,
    pub(crate) synack: Option<bool>,
    pub(crate) mptcp_join: Option<bool>,
    pub(crate) mac: Option<Read<Mac>>,
}

/// What Suricata says of TCP: the flags seen each way, all packets together.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Tcp {
    pub(crate) tcp_flags_ts: Option<Read<Flags>>,
    pub(crate) tcp_flags_tc: Option<Read<Flags>>,
}
