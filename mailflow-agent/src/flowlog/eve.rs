//! EVE `flow` lines: what mailflow's own have in common with Suricata's.

use std::{borrow::Cow, net::IpAddr};

use mailflow_common::Vlans;
use serde::Deserialize;

use super::{
    Entry, Line, Reading, Skipped,
    ends::Ends,
    fault::Fault,
    json,
    own::{self, Extra},
    suricata::{self, Tcp},
    text::{Moment, Proto, Read},
};

/// A string that is not copied unless it must be.
#[derive(Debug, Deserialize)]
pub(super) struct Word<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A flow line.
#[derive(Debug, Deserialize)]
pub(super) struct Flow<'a> {
    event_type: Cow<'a, str>,
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
    #[serde(default)]
    pub(super) vlan: Vec<u16>,
    #[serde(borrow)]
    pub(super) flow: Counters<'a>,
    pub(super) tcp: Option<Tcp>,
    #[serde(borrow)]
    mailflow: Option<Extra<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Counters<'a> {
    pub(super) pkts_toserver: u64,
    pub(super) bytes_toserver: u64,
    pub(super) pkts_toclient: u64,
    pub(super) bytes_toclient: u64,
    pub(super) start: Read<Moment>,
    pub(super) end: Read<Moment>,
    #[serde(borrow)]
    pub(super) state: Option<Word<'a>>,
    #[serde(borrow)]
    pub(super) reason: Option<Word<'a>>,
}

/// The line's kind alone.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    event_type: Option<Word<'a>>,
}

/// Reads one line.
pub(super) fn read(line: &[u8], reading: &Reading<'_>) -> Result<Line, Fault> {
    // Lines of other kinds have fields of the same names and other forms.
    if memchr::memmem::find(line, b"\"event_type\":\"flow\"").is_none() {
        let kind: Kind<'_> = json::read(line)?;
        if kind.event_type.is_none_or(|kind| kind.0 != "flow") {
            return Ok(Line::Skipped(Skipped::OtherEvent));
        }
    }
    let flow: Flow<'_> = json::read(line)?;
    if flow.event_type != "flow" {
        return Ok(Line::Skipped(Skipped::OtherEvent));
    }
    let entry = match &flow.mailflow {
        Some(extra) => own::entry(&flow, extra, line, reading)?,
        None => suricata::entry(&flow, line, reading)?,
    };
    Ok(entry.map_or(Line::Skipped(Skipped::NotWatched), Line::Entry))
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

/// What comes of a line; `None` where its ports are not watched.
pub(super) type Found = Result<Option<Entry>, Fault>;
