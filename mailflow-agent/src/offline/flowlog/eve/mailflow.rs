//! mailflow's own flow lines (docs/integrate/events.md).

use mailflow_common::{App, Facts, seen};

use super::line::{Counters, Extra, Flow as Eve};
use crate::offline::flowlog::{
    Entry, Origin, Reading, app,
    ends::Handshake,
    entry::Found,
    fault::Fault,
    json,
    text::{Read, Text, refused},
};
use mailflow_engine::{
    flow::{Direction, Flow, FlowRecord, RecordReason},
    inputs::Inputs,
};

/// The record of a line; its source is the client.
pub(crate) fn entry(line: &Eve<'_>, extra: &Extra<'_>, text: &[u8], reading: &Reading<'_>) -> Found {
    let Some(ends) = line.ends(text)? else { return Ok(None) };
    let Some((key, ..)) = ends.place(Handshake::OfSource, reading.services) else { return Ok(None) };
    let (start, end) = line.times(text)?;
    let counters = &line.flow;
    let app = line.app_proto.as_ref().map_or(Ok(App::Unseen), |app| named(&app.0, "app_proto", text))?;
    let reason = counters
        .reason
        .as_ref()
        .map_or(Ok(RecordReason::Closed), |reason| named(&reason.0, "flow.reason", text))?;

    let direction = |packets: Option<u64>,
                     bytes: Option<u64>,
                     payload: Option<u64>,
                     data: Option<u64>,
                     data_bytes: Option<u64>| Direction {
        packets: packets.unwrap_or_default(),
        bytes: bytes.unwrap_or_default(),
        payload: payload.unwrap_or_default(),
        data_packets: data.unwrap_or_default(),
        data_bytes: data_bytes.unwrap_or_default(),
        last: packets.is_none_or(|packets| packets > 0).then_some(end.0),
    };
    let (packets, bytes) = (counters.pkts_toserver, counters.bytes_toserver);
    let up = direction(packets, bytes, extra.payload_up, extra.data_packets_up, extra.data_bytes_up);
    let (packets, bytes) = (counters.pkts_toclient, counters.bytes_toclient);
    let down = direction(packets, bytes, extra.payload_down, extra.data_packets_down, extra.data_bytes_down);

    let closed = counters.state.as_ref().is_some_and(|state| state.0 == "closed");
    let mut facts = Facts {
        syn: extra.syn.unwrap_or_default().into(),
        syn_ack: extra.synack.unwrap_or_default().into(),
        fin_up: closed.into(),
        fin_down: closed.into(),
        seen: u8::from(down.packets > 0)
            | if extra.mptcp_join == Some(true) { seen::MPTCP_JOIN | seen::MPTCP_JOINED } else { 0 },
        ..Facts::default()
    };
    let client = extra.app_evidence.as_ref().is_some_and(|evidence| evidence.0 == "client_hello");
    app::stands_for(app, client, &mut facts);

    let flow = Flow {
        key,
        up,
        down,
        first: start.0,
        messages: extra.messages_estimated.unwrap_or_default(),
        rejected: extra.messages_rejected.unwrap_or_default(),
        mac: extra.mac.map(|Read(mac)| mac.0),
        interface: None,
        facts,
    };
    let complete = extra.complete.unwrap_or_default();
    let record = FlowRecord { flow, app, reason, complete, inputs: inputs(counters, extra) };
    Ok(Some(Entry { record, origin: Origin::Mailflow }))
}

fn inputs(counters: &Counters<'_>, extra: &Extra<'_>) -> Inputs {
    let both = |one: Option<u64>, other: Option<u64>| one.and(other).is_some();
    let mut inputs = counters.inputs();
    inputs.set(Inputs::PAYLOAD, both(extra.payload_up, extra.payload_down));
    inputs.set(Inputs::DATA_PACKETS, both(extra.data_packets_up, extra.data_packets_down));
    inputs.set(Inputs::DATA_BYTES, both(extra.data_bytes_up, extra.data_bytes_down));
    inputs.set(Inputs::MESSAGES, extra.messages_estimated.is_some());
    inputs.set(Inputs::SYN, extra.syn.is_some());
    inputs.set(Inputs::SYN_ACK, extra.synack.is_some());
    inputs
}

fn named<T: Text>(name: &str, field: &str, text: &[u8]) -> Result<T, Fault> {
    T::read(name).ok_or_else(|| Fault::new(json::column(text, field), field, refused(name, T::EXPECTED)))
}
