//! Connections of Zeek, from columns and from JSON.

use std::{borrow::Cow, net::IpAddr};

use mailflow_common::{Facts, Vlans};
use serde::Deserialize;

use super::names;
use crate::offline::flowlog::{
    LineOutcome, LogOrigin, LogRecord, ReadContext, SkipReason, app,
    endpoints::{ClientEvidence, LogEndpoints, Orientation, known_without_session},
    error::LineError,
    eve::line::CowStr,
    json,
    text::{LogDuration, LogProtocol, LogTimestamp, MacAddress, Parsed},
};
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason},
    time::Time,
};

/// Line of conn.log. A value that Zeek does not know is missing, or `-` in columns.
#[derive(Debug, Deserialize)]
pub(crate) struct ZeekConn<'a> {
    pub(crate) ts: Parsed<LogTimestamp>,
    #[serde(rename = "id.orig_h")]
    pub(crate) orig_h: Parsed<IpAddr>,
    #[serde(rename = "id.orig_p")]
    pub(crate) orig_p: u16,
    #[serde(rename = "id.resp_h")]
    pub(crate) resp_h: Parsed<IpAddr>,
    #[serde(rename = "id.resp_p")]
    pub(crate) resp_p: u16,
    pub(crate) proto: Parsed<LogProtocol>,
    #[serde(borrow, default)]
    pub(crate) service: ZeekService<'a>,
    pub(crate) duration: Option<Parsed<LogDuration>>,
    #[serde(borrow)]
    pub(crate) conn_state: Option<CowStr<'a>>,
    #[serde(borrow)]
    pub(crate) history: Option<CowStr<'a>>,
    pub(crate) missed_bytes: Option<u64>,
    pub(crate) orig_bytes: Option<u64>,
    pub(crate) orig_pkts: Option<u64>,
    pub(crate) orig_ip_bytes: Option<u64>,
    pub(crate) resp_bytes: Option<u64>,
    pub(crate) resp_pkts: Option<u64>,
    pub(crate) resp_ip_bytes: Option<u64>,
    pub(crate) vlan: Option<u16>,
    pub(crate) inner_vlan: Option<u16>,
    pub(crate) orig_l2_addr: Option<Parsed<MacAddress>>,
    /// True if the log of the line lists connections that are still open.
    #[serde(skip)]
    pub(crate) open: bool,
}

/// Service: one name, several names with commas, or a list of names.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(crate) enum ZeekService<'a> {
    #[default]
    Unknown,
    Names(#[serde(borrow)] Cow<'a, str>),
    List(#[serde(borrow)] Vec<CowStr<'a>>),
}

impl ZeekService<'_> {
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Unknown => Vec::new(),
            Self::Names(names) => names.split(',').collect(),
            Self::List(names) => names.iter().map(|name| &*name.0).collect(),
        }
    }
}

/// Zeek's logs of connections, and true if the connections are still open. Zeek packages write the second
/// and the third one during long connections, with the totals so far.
const CONNECTION_LOGS: [(&str, bool); 3] = [("conn", false), ("open_conn", true), ("conn_long", true)];

/// Returns true if the connections of a log are still open; `None` if it is no log of connections.
pub(crate) fn open_state(path: &str) -> Option<bool> {
    CONNECTION_LOGS.iter().find(|(name, _)| *name == path).map(|(_, open)| *open)
}

/// Log of a line of JSON, if the line names it.
#[derive(Deserialize)]
struct LogPath<'a> {
    #[serde(rename = "_path", borrow)]
    path: Option<CowStr<'a>>,
}

/// Reads one line of JSON.
pub(crate) fn read(line: &[u8], context: &ReadContext<'_>) -> Result<LineOutcome, LineError> {
    let mut open = false;
    if memchr::memmem::find(line, b"\"_path\"").is_some() {
        let LogPath { path } = json::read(line)?;
        match path.map_or(Some(false), |path| open_state(&path.0)) {
            Some(of_log) => open = of_log,
            None => return Ok(LineOutcome::Skipped(SkipReason::OtherEvent)),
        }
    }
    let own_names = context.columns.is_empty() && memchr::memmem::find(line, b"\"id.orig_h\"").is_some();
    if own_names {
        let conn = ZeekConn { open, ..json::read(line)? };
        return Ok(conn.outcome(context));
    }
    // Nested, renamed or with underscores: columns get Zeek's names first.
    let renamed =
        serde_json::to_vec(&names::with_zeek_names(json::read(line)?, context.columns)).unwrap_or_default();
    let conn: ZeekConn<'_> = json::read(&renamed).map_err(|error| {
        let name = error.field.rsplit('.').next().unwrap_or_default();
        LineError { column: json::column(line, name), ..error }
    })?;
    Ok(ZeekConn { open, ..conn }.outcome(context))
}

impl ZeekConn<'_> {
    /// Returns the record of the line, or the reason why it is skipped.
    pub(crate) fn outcome(&self, context: &ReadContext<'_>) -> LineOutcome {
        let handshake = Handshake::of(self);
        let vlans = [self.vlan, self.inner_vlan].into_iter().flatten();
        let endpoints = LogEndpoints {
            source: (self.orig_h.0, self.orig_p),
            destination: (self.resp_h.0, self.resp_p),
            proto: self.proto.0,
            vlans: vlans.fold(Vlans::default(), Vlans::push),
        };
        let Some((key, orientation, service)) = endpoints.flow_key(handshake.evidence, context.services)
        else {
            return LineOutcome::Skipped(SkipReason::NotWatched);
        };
        let Parsed(LogTimestamp(first)) = self.ts;
        let end = first + std::time::Duration::from_nanos(self.duration.map_or(0, |Parsed(span)| span.0));
        let mut up = direction(self.orig_pkts, self.orig_ip_bytes, self.orig_bytes, end);
        let mut down = direction(self.resp_pkts, self.resp_ip_bytes, self.resp_bytes, end);
        let mut facts = handshake.facts;
        if orientation == Orientation::Reversed {
            std::mem::swap(&mut up, &mut down);
            std::mem::swap(&mut facts.fin_up, &mut facts.fin_down);
        }
        let mut inputs = self.inputs(handshake.fields);
        let unanswered = inputs.contains(RecordFields::PACKETS) && down.packets == 0;
        facts.seen = (down.packets > 0).into();
        let app = app::classify_names(self.service.names(), service);
        app::set_facts(app, false, &mut facts);

        let reason = match (self.open, facts.closed()) {
            (true, _) => RecordReason::Active,
            (false, true) => RecordReason::Closed,
            (false, false) => RecordReason::Idle,
        };
        if self.open && facts.syn_ack == 0 {
            // The SYN may still be answered.
            inputs.remove(RecordFields::MESSAGES);
        }
        let whole = match self.proto.0 {
            LogProtocol::Tcp => facts.syn != 0 && (unanswered || facts.syn_ack != 0),
            _ => true,
        };
        let complete = whole && self.missed_bytes.unwrap_or_default() == 0;
        let mac = self.orig_l2_addr.filter(|_| orientation == Orientation::AsLogged).map(|Parsed(mac)| mac.0);
        let flow = Flow { key, up, down, first, messages: 0, rejected: 0, mac, interface: None, facts };
        let record = FlowRecord { flow, app, reason, complete, fields: inputs };
        LineOutcome::Record(LogRecord { record, origin: LogOrigin::Zeek })
    }

    fn inputs(&self, mut fields: RecordFields) -> RecordFields {
        let both = |one: Option<u64>, other: Option<u64>| one.and(other).is_some();
        fields.set(RecordFields::PACKETS, both(self.orig_pkts, self.resp_pkts));
        fields.set(RecordFields::BYTES, both(self.orig_ip_bytes, self.resp_ip_bytes));
        fields.set(RecordFields::PAYLOAD, both(self.orig_bytes, self.resp_bytes));
        fields
    }
}

fn direction(packets: Option<u64>, bytes: Option<u64>, payload: Option<u64>, end: Time) -> DirectionStats {
    DirectionStats {
        packets: packets.unwrap_or_default(),
        bytes: bytes.unwrap_or_default(),
        payload: payload.unwrap_or_default(),
        // Also for a direction without counts: this is the event time of the flow.
        last: Some(end),
        ..DirectionStats::default()
    }
}

/// Handshake and end of a connection, as far as the log records them.
struct Handshake {
    evidence: ClientEvidence,
    fields: RecordFields,
    facts: Facts,
}

impl Handshake {
    fn of(conn: &ZeekConn<'_>) -> Self {
        let unseen =
            Self { evidence: ClientEvidence::Unseen, fields: RecordFields::empty(), facts: Facts::default() };
        if conn.proto.0 != LogProtocol::Tcp {
            return unseen;
        }
        let inputs = RecordFields::SYN | RecordFields::SYN_ACK;
        let (evidence, facts) = match (&conn.history, &conn.conn_state) {
            (Some(history), _) => from_history(&history.0),
            (None, Some(state)) => from_conn_state(&state.0),
            (None, None) => return unseen,
        };
        Self { evidence, fields: inputs | known_without_session(&facts), facts }
    }
}

/// Reads Zeek's `history`: a letter for each event, upper case for the originator.
fn from_history(history: &str) -> (ClientEvidence, Facts) {
    let [syn, reply, fin_up, fin_down] =
        ['S', 'h', 'F', 'f'].map(|letter| u8::from(history.contains(letter)));
    let reset = u8::from(history.contains(['R', 'r']));
    let facts = Facts { syn, syn_ack: reply, fin_up, fin_down, reset, ..Facts::default() };
    if syn != 0 || reply != 0 {
        return (ClientEvidence::FromSource, facts);
    }
    // The originator answered a SYN, or the responder sent one.
    let [reply, syn] = ['H', 's'].map(|letter| u8::from(history.contains(letter)));
    let evidence =
        if syn != 0 || reply != 0 { ClientEvidence::FromDestination } else { ClientEvidence::Unseen };
    (evidence, Facts { syn, syn_ack: reply, ..facts })
}

/// Reads Zeek's `conn_state`, if there is no `history`.
fn from_conn_state(state: &str) -> (ClientEvidence, Facts) {
    let (syn, syn_ack, fin_up, fin_down, reset) = match state {
        "S0" => (1, 0, 0, 0, 0),
        "SH" => (1, 0, 1, 0, 0),
        "REJ" | "RSTOS0" => (1, 0, 0, 0, 1),
        "SHR" => (0, 1, 0, 1, 0),
        "RSTRH" => (0, 1, 0, 0, 1),
        "S1" => (1, 1, 0, 0, 0),
        "S2" => (1, 1, 1, 0, 0),
        "S3" => (1, 1, 0, 1, 0),
        "SF" => (1, 1, 1, 1, 0),
        "RSTO" | "RSTR" => (1, 1, 0, 0, 1),
        _ => return (ClientEvidence::Unseen, Facts::default()),
    };
    (ClientEvidence::FromSource, Facts { syn, syn_ack, fin_up, fin_down, reset, ..Facts::default() })
}
