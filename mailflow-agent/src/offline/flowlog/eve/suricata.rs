//! Suricata's EVE flow lines.
//!
//! Its bytes are whole frames. What Ethernet and VLAN tags add is taken off, but not the padding of
//! frames below 60 bytes, of which the line tells nothing.

use mailflow_common::Facts;

use super::line::{Flow as Eve, Tcp};
use crate::offline::flowlog::{
    Entry, Origin, Reading, app,
    ends::{Handshake, Lie, without_session},
    entry::Found,
    fault::Fault,
    json,
    text::{Flags, Proto, Read, refused},
};
use mailflow_engine::{
    flow::RecordFields,
    flow::{DirectionStats, Flow, FlowRecord, RecordReason},
};

/// An Ethernet header (IEEE 802.3).
const ETHERNET: u64 = 14;
/// A VLAN tag (IEEE 802.1Q).
const TAG: u64 = 4;

/// TCP flags (RFC 9293, 3.1).
mod flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

/// The record of a line.
pub(crate) fn entry(line: &Eve<'_>, text: &[u8], reading: &Reading<'_>) -> Found {
    let Some(ends) = line.ends(text)? else { return Ok(None) };
    let (inputs, mut facts) = seen(line);
    let handshake = match (facts.syn, facts.syn_ack) {
        (0, 0) => Handshake::Unseen,
        _ => Handshake::OfSource,
    };
    let Some((key, lie, service)) = ends.place(handshake, reading.services) else { return Ok(None) };
    let (start, end) = line.times(text)?;
    let counters = &line.flow;

    let overhead = reading.l2_overhead.map_or(ETHERNET + TAG * line.vlan.len() as u64, u64::from);
    let direction = |packets: Option<u64>, frames: Option<u64>, field: &str| {
        let last = packets.is_none_or(|packets| packets > 0).then_some(end.0);
        // Without the packets it is not known what to take off.
        let (Some(packets), Some(frames)) = (packets, frames) else {
            return Ok(DirectionStats {
                packets: packets.unwrap_or_default(),
                last,
                ..DirectionStats::default()
            });
        };
        let bytes = packets.checked_mul(overhead).and_then(|overhead| frames.checked_sub(overhead));
        let expected = || format!("at least {overhead} a packet, of which there are {packets}");
        let short = || Fault::new(json::column(text, field), field, refused(frames, &expected()));
        bytes
            .map(|bytes| DirectionStats { packets, bytes, last, ..DirectionStats::default() })
            .ok_or_else(short)
    };
    let mut up = direction(counters.pkts_toserver, counters.bytes_toserver, "flow.bytes_toserver")?;
    let mut down = direction(counters.pkts_toclient, counters.bytes_toclient, "flow.bytes_toclient")?;
    if lie == Lie::Reversed {
        std::mem::swap(&mut up, &mut down);
        std::mem::swap(&mut facts.fin_up, &mut facts.fin_down);
    }
    let unanswered = inputs.contains(RecordFields::PACKETS) && down.packets == 0;
    facts.seen = (down.packets > 0).into();

    let names = [&line.app_proto, &line.app_proto_orig].into_iter().flatten().map(|name| &*name.0);
    let app = app::class(names, service);
    app::stands_for(app, false, &mut facts);
    let closed = facts.closed() || counters.state.as_ref().is_some_and(|state| state.0 == "closed");
    let reason = if closed { RecordReason::Closed } else { RecordReason::Idle };
    let complete = match line.proto.0 {
        Proto::Tcp => facts.syn != 0 && (unanswered || facts.syn_ack != 0),
        _ => true,
    };
    let flow =
        Flow { key, up, down, first: start.0, messages: 0, rejected: 0, mac: None, interface: None, facts };
    let record = FlowRecord { flow, app, reason, complete, fields: inputs };
    Ok(Some(Entry { record, origin: Origin::Suricata }))
}

/// What the line tells, and the facts among it.
fn seen(line: &Eve<'_>) -> (RecordFields, Facts) {
    let mut inputs = line.flow.inputs();
    if !inputs.contains(RecordFields::PACKETS) {
        inputs.remove(RecordFields::BYTES);
    }
    let Some(Tcp { tcp_flags_ts: Some(Read(Flags(up))), tcp_flags_tc: Some(Read(Flags(down))) }) = line.tcp
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
    (inputs | RecordFields::SYN | RecordFields::SYN_ACK | without_session(&facts), facts)
}
