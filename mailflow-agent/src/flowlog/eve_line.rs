//! EVE flow lines as they are written, mailflow's own and Suricata's.

use super::{
    ends::Ends,
    fault::Fault,
    json,
    text::{Flags, Mac, Moment, Proto, Read},
};
use mailflow_common::Vlans;
use mailflow_engine::inputs::Inputs;
use serde::{Deserialize, Deserializer};
use std::{borrow::Cow, net::IpAddr};

/// A string that is not copied unless it must be.
#[derive(Debug, Deserialize)]
pub(super) struct Word<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A flow line.
#[derive(Debug, Deserialize)]
pub(super) struct Flow<'a> {
    #[serde(borrow)]
    pub(super) event_type: Word<'a>,
    pub(super) src_ip: Read<IpAddr>,
    pub(super) src_port: Option<u16>,
    pub(super) dest_ip: Read<IpAddr>,
    pub(super) dest_port: Option<u16>,
    pub(super) proto: Read<Proto>,
    #[serde(borrow)]
    pub(super) app_proto: Option<Word<'a>>,
    /// Suricata: what it was before it changed to TLS.
    #[serde(borrow)]
    pub(super) app_proto_orig: Option<Word<'a>>,
    #[serde(default, deserialize_with = "tags")]
    pub(super) vlan: Vec<u16>,
    #[serde(borrow)]
    pub(super) flow: Counters<'a>,
    pub(super) tcp: Option<Tcp>,
    #[serde(borrow)]
    pub(super) mailflow: Option<Extra<'a>>,
}

impl Flow<'_> {
    /// The two ends; `None` for a protocol without ports.
    pub(super) fn ends(&self, line: &[u8]) -> Result<Option<Ends>, Fault> {
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
    pub(super) fn times(&self, line: &[u8]) -> Result<(Moment, Moment), Fault> {
        let (Read(start), Read(end)) = (self.flow.start, self.flow.end);
        if end.0 < start.0 {
            return Err(Fault::new(json::column(line, "flow.end"), "flow.end", "lies before flow.start"));
        }
        Ok((start, end))
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Counters<'a> {
    #[serde(deserialize_with = "nullable")]
    pub(super) pkts_toserver: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(super) bytes_toserver: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(super) pkts_toclient: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub(super) bytes_toclient: Option<u64>,
    pub(super) start: Read<Moment>,
    pub(super) end: Read<Moment>,
    #[serde(borrow)]
    pub(super) state: Option<Word<'a>>,
    #[serde(borrow)]
    pub(super) reason: Option<Word<'a>>,
}

impl Counters<'_> {
    /// Returns the inputs that both directions have.
    pub(super) fn inputs(&self) -> Inputs {
        let both = |one: Option<u64>, other: Option<u64>| one.and(other).is_some();
        let mut inputs = Inputs::empty();
        inputs.set(Inputs::PACKETS, both(self.pkts_toserver, self.pkts_toclient));
        inputs.set(Inputs::BYTES, both(self.bytes_toserver, self.bytes_toclient));
        inputs
    }
}

/// A number that must be there, and may be null: what a log of evidence has for what is not known.
pub(super) fn nullable<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(from)
}

/// VLAN tags: a list, or one, or null, or none.
pub(super) fn tags<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u16>, D::Error> {
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
pub(super) struct Extra<'a> {
    pub(super) payload_up: Option<u64>,
    pub(super) payload_down: Option<u64>,
    pub(super) data_packets_up: Option<u64>,
    pub(super) data_packets_down: Option<u64>,
    pub(super) data_bytes_up: Option<u64>,
    pub(super) data_bytes_down: Option<u64>,
    pub(super) messages_estimated: Option<u32>,
    pub(super) messages_rejected: Option<u32>,
    #[serde(borrow)]
    pub(super) app_evidence: Option<Word<'a>>,
    pub(super) complete: Option<bool>,
    pub(super) syn: Option<bool>,
    pub(super) synack: Option<bool>,
    pub(super) mptcp_join: Option<bool>,
    pub(super) mac: Option<Read<Mac>>,
}

/// What Suricata says of TCP: the flags seen each way, all packets together.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Tcp {
    pub(super) tcp_flags_ts: Option<Read<Flags>>,
    pub(super) tcp_flags_tc: Option<Read<Flags>>,
}
