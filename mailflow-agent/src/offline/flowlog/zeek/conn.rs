//! Zeek's conn.log: what its columns and its JSON have in common.

use std::{borrow::Cow, net::IpAddr};

use mailflow_common::{Facts, Vlans};
use serde::Deserialize;

use super::names;
use crate::offline::flowlog::{
    Entry, Line, Origin, Reading, Skipped, app,
    ends::{Ends, Handshake, Lie, without_session},
    eve::line::Word,
    fault::Fault,
    json,
    text::{Mac, Moment, Proto, Read, Span},
};
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason},
    time::Time,
};

/// A line of conn.log. What Zeek does not know is left out, or `-` in columns.
#[derive(Debug, Deserialize)]
pub(crate) struct Conn<'a> {
    pub(crate) ts: Read<Moment>,
    #[serde(rename = "id.orig_h")]
    pub(crate) orig_h: Read<IpAddr>,
    #[serde(rename = "id.orig_p")]
    pub(crate) orig_p: u16,
    #[serde(rename = "id.resp_h")]
    pub(crate) resp_h: Read<IpAddr>,
    #[serde(rename = "id.resp_p")]
    pub(crate) resp_p: u16,
    pub(crate) proto: Read<Proto>,
    #[serde(borrow, default)]
    pub(crate) service: Service<'a>,
    pub(crate) duration: Option<Read<Span>>,
    #[serde(borrow)]
    pub(crate) conn_state: Option<Word<'a>>,
    #[serde(borrow)]
    pub(crate) history: Option<Word<'a>>,
    pub(crate) missed_bytes: Option<u64>,
    pub(crate) orig_bytes: Option<u64>,
    pub(crate) orig_pkts: Option<u64>,
    pub(crate) orig_ip_bytes: Option<u64>,
    pub(crate) resp_bytes: Option<u64>,
    pub(crate) resp_pkts: Option<u64>,
    pub(crate) resp_ip_bytes: Option<u64>,
    pub(crate) vlan: Option<u16>,
    pub(crate) inner_vlan: Option<u16>,
    pub(crate) orig_l2_addr: Option<Read<Mac>>,
    /// The log it is of says that the connection is still open.
    #[serde(skip)]
    pub(crate) open: bool,
}

/// One name, or several with commas, or a list of names.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(crate) enum Service<'a> {
    #[default]
    Unknown,
    Names(#[serde(borrow)] Cow<'a, str>),
    List(#[serde(borrow)] Vec<Word<'a>>),
}

impl Service<'_> {
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Unknown => Vec::new(),
            Self::Names(names) => names.split(',').collect(),
            Self::List(names) => names.iter().map(|name| &*name.0).collect(),
        }
    }
}

/// Zeek's logs of connections, and whether these are still open there. Packages write the second and the third
/// one while long connections last, with their totals so far.
const LOGS: [(&str, bool); 3] = [("conn", false), ("open_conn", true), ("conn_long", true)];

/// Returns whether the connections of a log are still open; none where it is not one of connections.
pub(crate) fn is_open(path: &str) -> Option<bool> {
    LOGS.iter().find(|(name, _)| *name == path).map(|(_, open)| *open)
}

/// Which log a line of JSON is of, where it says so.
#[derive(Deserialize)]
struct Path<'a> {
    #[serde(rename = "_path", borrow)]
    path: Option<Word<'a>>,
}

/// Reads one line of JSON.
pub(crate) fn read(line: &[u8], reading: &Reading<'_>) -> Result<Line, Fault> {
    let mut open = false;
    if memchr::memmem::find(line, b"\"_path\"").is_some() {
        let Path { path } = json::read(line)?;
        match path.map_or(Some(false), |path| is_open(&path.0)) {
            Some(of_log) => open = of_log,
            None => return Ok(Line::Skipped(Skipped::OtherEvent)),
        }
    }
    let plain = reading.columns.is_empty() && memchr::memmem::find(line, b"\"id.orig_h\"").is_some();
    if plain {
        let conn = Conn { open, ..json::read(line)? };
        return Ok(conn.line(reading));
    }
    // Nested, renamed or with underscores: the names that Zeek gives come first.
    let renamed = serde_json::to_vec(&names::own(json::read(line)?, reading.columns)).unwrap_or_default();
    let conn: Conn<'_> = json::read(&renamed).map_err(|fault| {
        let name = fault.field.rsplit('.').next().unwrap_or_default();
        Fault { column: json::column(line, name), ..fault }
    })?;
    Ok(Conn { open, ..conn }.line(reading))
}

impl Conn<'_> {
    /// Returns its record, or the reason why it gives none.
    pub(crate) fn line(&self, reading: &Reading<'_>) -> Line {
        let seen = Seen::of(self);
        let vlans = [self.vlan, self.inner_vlan].into_iter().flatten();
        let ends = Ends {
            source: (self.orig_h.0, self.orig_p),
            destination: (self.resp_h.0, self.resp_p),
            proto: self.proto.0,
            vlans: vlans.fold(Vlans::default(), Vlans::push),
        };
        let Some((key, lie, service)) = ends.place(seen.handshake, reading.services) else {
            return Line::Skipped(Skipped::NotWatched);
        };
        let Read(Moment(first)) = self.ts;
        let end = first + std::time::Duration::from_nanos(self.duration.map_or(0, |Read(span)| span.0));
        let mut up = direction(self.orig_pkts, self.orig_ip_bytes, self.orig_bytes, end);
        let mut down = direction(self.resp_pkts, self.resp_ip_bytes, self.resp_bytes, end);
        let mut facts = seen.facts;
        if lie == Lie::Reversed {
            std::mem::swap(&mut up, &mut down);
            std::mem::swap(&mut facts.fin_up, &mut facts.fin_down);
        }
        let mut inputs = self.inputs(seen.inputs);
        let unanswered = inputs.contains(RecordFields::PACKETS) && down.packets == 0;
        facts.seen = (down.packets > 0).into();
        let app = app::class(self.service.names(), service);
        app::stands_for(app, false, &mut facts);

        let reason = match (self.open, facts.closed()) {
            (true, _) => RecordReason::Active,
            (false, true) => RecordReason::Closed,
            (false, false) => RecordReason::Idle,
        };
        if self.open && facts.syn_ack == 0 {
            // It may still be answered.
            inputs.remove(RecordFields::MESSAGES);
        }
        let whole = match self.proto.0 {
            Proto::Tcp => facts.syn != 0 && (unanswered || facts.syn_ack != 0),
            _ => true,
        };
        let complete = whole && self.missed_bytes.unwrap_or_default() == 0;
        let mac = self.orig_l2_addr.filter(|_| lie == Lie::AsTold).map(|Read(mac)| mac.0);
        let flow = Flow { key, up, down, first, messages: 0, rejected: 0, mac, interface: None, facts };
        let record = FlowRecord { flow, app, reason, complete, fields: inputs };
        Line::Entry(Entry { record, origin: Origin::Zeek })
    }

    fn inputs(&self, mut inputs: RecordFields) -> RecordFields {
        let both = |one: Option<u64>, other: Option<u64>| one.and(other).is_some();
        inputs.set(RecordFields::PACKETS, both(self.orig_pkts, self.resp_pkts));
        inputs.set(RecordFields::BYTES, both(self.orig_ip_bytes, self.resp_ip_bytes));
        inputs.set(RecordFields::PAYLOAD, both(self.orig_bytes, self.resp_bytes));
        inputs
    }
}

fn direction(packets: Option<u64>, bytes: Option<u64>, payload: Option<u64>, end: Time) -> DirectionStats {
    DirectionStats {
        packets: packets.unwrap_or_default(),
        bytes: bytes.unwrap_or_default(),
        payload: payload.unwrap_or_default(),
        // Also of a side of which nothing is known: this is the flow's event time.
        last: Some(end),
        ..DirectionStats::default()
    }
}

/// What is known of the handshake and the end.
struct Seen {
    handshake: Handshake,
    inputs: RecordFields,
    facts: Facts,
}

impl Seen {
    fn of(conn: &Conn<'_>) -> Self {
        let unseen =
            Self { handshake: Handshake::Unseen, inputs: RecordFields::empty(), facts: Facts::default() };
        if conn.proto.0 != Proto::Tcp {
            return unseen;
        }
        let inputs = RecordFields::SYN | RecordFields::SYN_ACK;
        let (handshake, facts) = match (&conn.history, &conn.conn_state) {
            (Some(history), _) => by_history(&history.0),
            (None, Some(state)) => by_state(&state.0),
            (None, None) => return unseen,
        };
        Self { handshake, inputs: inputs | without_session(&facts), facts }
    }
}

/// Zeek's `history`: a letter for what each side did, capitals for the originator's.
fn by_history(history: &str) -> (Handshake, Facts) {
    let [syn, reply, fin_up, fin_down] =
        ['S', 'h', 'F', 'f'].map(|letter| u8::from(history.contains(letter)));
    let reset = u8::from(history.contains(['R', 'r']));
    let facts = Facts { syn, syn_ack: reply, fin_up, fin_down, reset, ..Facts::default() };
    if syn != 0 || reply != 0 {
        return (Handshake::OfSource, facts);
    }
    // The originator answered a SYN, or the responder sent one.
    let [reply, syn] = ['H', 's'].map(|letter| u8::from(history.contains(letter)));
    let handshake = if syn != 0 || reply != 0 { Handshake::OfDestination } else { Handshake::Unseen };
    (handshake, Facts { syn, syn_ack: reply, ..facts })
}

/// Zeek's `conn_state`, where `history` is left out.
fn by_state(state: &str) -> (Handshake, Facts) {
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
        _ => return (Handshake::Unseen, Facts::default()),
    };
    (Handshake::OfSource, Facts { syn, syn_ack, fin_up, fin_down, reset, ..Facts::default() })
}
