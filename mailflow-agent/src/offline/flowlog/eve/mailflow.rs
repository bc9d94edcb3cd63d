//! mailflow's own flow lines (docs/integrate/events.md).

use mailflow_common::{App, Facts, seen};

use super::line::{EveCounters, EveFlowLine, MailflowFields};
use crate::offline::flowlog::{
    LogOrigin, LogRecord, ReadContext, app,
    endpoints::ClientEvidence,
    error::LineError,
    json,
    outcome::ParsedRecord,
    text::{Parsed, TextValue, describe_mismatch},
};
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason},
};

/// Returns the record of a line. The source is the client.
pub(crate) fn record(
    line: &EveFlowLine<'_>,
    extra: &MailflowFields<'_>,
    text: &[u8],
    context: &ReadContext<'_>,
) -> ParsedRecord {
    let Some(endpoints) = line.endpoints(text)? else { return Ok(None) };
    let Some((key, ..)) = endpoints.flow_key(ClientEvidence::FromSource, context.services) else {
        return Ok(None);
    };
    let (start, end) = line.times(text)?;
    let counters = &line.flow;
    let app =
        line.app_proto.as_ref().map_or(Ok(App::Unseen), |app| parse_named(&app.0, "app_proto", text))?;
    let reason = counters
        .reason
        .as_ref()
        .map_or(Ok(RecordReason::Closed), |reason| parse_named(&reason.0, "flow.reason", text))?;

    let direction = |packets: Option<u64>,
                     bytes: Option<u64>,
                     payload: Option<u64>,
                     data: Option<u64>,
                     data_bytes: Option<u64>| DirectionStats {
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
    app::set_facts(app, client, &mut facts);

    let flow = Flow {
        key,
        up,
        down,
        first: start.0,
        messages: extra.messages_estimated.unwrap_or_default(),
        rejected: extra.messages_rejected.unwrap_or_default(),
        mac: extra.mac.map(|Parsed(mac)| mac.0),
        interface: None,
        facts,
    };
    let complete = extra.complete.unwrap_or_default();
    let record = FlowRecord { flow, app, reason, complete, fields: inputs(counters, extra) };
    Ok(Some(LogRecord { record, origin: LogOrigin::Mailflow }))
}

fn inputs(counters: &EveCounters<'_>, extra: &MailflowFields<'_>) -> RecordFields {
    let both = |one: Option<u64>, other: Option<u64>| one.and(other).is_some();
    let mut inputs = counters.inputs();
    inputs.set(RecordFields::PAYLOAD, both(extra.payload_up, extra.payload_down));
    inputs.set(RecordFields::DATA_PACKETS, both(extra.data_packets_up, extra.data_packets_down));
    inputs.set(RecordFields::DATA_BYTES, both(extra.data_bytes_up, extra.data_bytes_down));
    inputs.set(RecordFields::MESSAGES, extra.messages_estimated.is_some());
    inputs.set(RecordFields::SYN, extra.syn.is_some());
    inputs.set(RecordFields::SYN_ACK, extra.synack.is_some());
    inputs
}

fn parse_named<T: TextValue>(name: &str, field: &str, text: &[u8]) -> Result<T, LineError> {
    T::parse(name)
        .ok_or_else(|| LineError::new(json::column(text, field), field, describe_mismatch(name, T::EXPECTED)))
}
