//! Suricata's EVE flow lines.
//!
//! Byte counts of Suricata are of whole frames. The Ethernet header and VLAN tags are subtracted. The
//! padding of frames below 60 bytes is not, as a line does not record it.

use mailflow_common::Facts;

use super::line::{EveFlowLine, EveTcp};
use crate::offline::flowlog::{
    LogOrigin, LogRecord, ReadContext, app,
    endpoints::{ClientEvidence, Orientation, known_without_session},
    error::LineError,
    json,
    outcome::ParsedRecord,
    text::{LogProtocol, Parsed, TcpFlags, describe_mismatch},
};
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason},
};

/// Length of an Ethernet header (IEEE 802.3).
const ETHERNET_HEADER: u64 = 14;
/// Length of a VLAN tag (IEEE 802.1Q).
const VLAN_TAG: u64 = 4;

/// TCP flags (RFC 9293, 3.1).
mod flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

/// Returns the record of a line.
pub(crate) fn record(line: &EveFlowLine<'_>, text: &[u8], context: &ReadContext<'_>) -> ParsedRecord {
    let Some(endpoints) = line.endpoints(text)? else { return Ok(None) };
    let (inputs, mut facts) = recorded_fields(line);
    let evidence = match (facts.syn, facts.syn_ack) {
        (0, 0) => ClientEvidence::Unseen,
        _ => ClientEvidence::FromSource,
    };
    let Some((key, orientation, service)) = endpoints.flow_key(evidence, context.services) else {
        return Ok(None);
    };
    let (start, end) = line.times(text)?;
    let counters = &line.flow;

    let overhead = context.l2_overhead.map_or(ETHERNET_HEADER + VLAN_TAG * line.vlan.len() as u64, u64::from);
    let direction = |packets: Option<u64>, frame_bytes: Option<u64>, field: &str| {
        let last = packets.is_none_or(|packets| packets > 0).then_some(end.0);
        // Without the number of packets the overhead is unknown.
        let (Some(packets), Some(frame_bytes)) = (packets, frame_bytes) else {
            return Ok(DirectionStats {
                packets: packets.unwrap_or_default(),
                last,
                ..DirectionStats::default()
            });
        };
        let bytes = packets.checked_mul(overhead).and_then(|overhead| frame_bytes.checked_sub(overhead));
        let expected = || format!("at least {overhead} a packet, of which there are {packets}");
        let too_short =
            || LineError::new(json::column(text, field), field, describe_mismatch(frame_bytes, &expected()));
        bytes
            .map(|bytes| DirectionStats { packets, bytes, last, ..DirectionStats::default() })
            .ok_or_else(too_short)
    };
    let mut up = direction(counters.pkts_toserver, counters.bytes_toserver, "flow.bytes_toserver")?;
    let mut down = direction(counters.pkts_toclient, counters.bytes_toclient, "flow.bytes_toclient")?;
    if orientation == Orientation::Reversed {
        std::mem::swap(&mut up, &mut down);
        std::mem::swap(&mut facts.fin_up, &mut facts.fin_down);
    }
    let unanswered = inputs.contains(RecordFields::PACKETS) && down.packets == 0;
    facts.seen = (down.packets > 0).into();

    let names = [&line.app_proto, &line.app_proto_orig].into_iter().flatten().map(|name| &*name.0);
    let app = app::classify_names(names, service);
    app::set_facts(app, false, &mut facts);
    let closed = facts.closed() || counters.state.as_ref().is_some_and(|state| state.0 == "closed");
    let reason = if closed { RecordReason::Closed } else { RecordReason::Idle };
    let complete = match line.proto.0 {
        LogProtocol::Tcp => facts.syn != 0 && (unanswered || facts.syn_ack != 0),
        _ => true,
    };
    let flow =
        Flow { key, up, down, first: start.0, messages: 0, rejected: 0, mac: None, interface: None, facts };
    let record = FlowRecord { flow, app, reason, complete, fields: inputs };
    Ok(Some(LogRecord { record, origin: LogOrigin::Suricata }))
}

/// Returns the fields that the line records, and the facts of the handshake.
fn recorded_fields(line: &EveFlowLine<'_>) -> (RecordFields, Facts) {
    let mut inputs = line.flow.inputs();
    if !inputs.contains(RecordFields::PACKETS) {
        inputs.remove(RecordFields::BYTES);
    }
    let Some(EveTcp { tcp_flags_ts: Some(Parsed(TcpFlags(up))), tcp_flags_tc: Some(Parsed(TcpFlags(down))) }) =
        line.tcp
    else {
        return (inputs, Facts::default());
    };
    let has = |flags: u8, wanted: u8| u8::from(flags & wanted == wanted);
    let facts = Facts {
        syn: has(up, flag::SYN),
        syn_ack: has(down, flag::SYN | flag::ACK),
        fin_up: has(up, flag::FIN),
        fin_down: has(down, flag::FIN),
        reset: has(up | down, flag::RST),
        ..Facts::default()
    };
    (inputs | RecordFields::SYN | RecordFields::SYN_ACK | known_without_session(&facts), facts)
}
