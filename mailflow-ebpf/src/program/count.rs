//! The counter: from a segment to its flow's counters.

use mailflow_common::{FlowCounters, Reason, owner, side};
use mailflow_ebpf::{Link, Segment, glance, locate};

use super::{
    begin::{begin, create, note_client, side_of},
    fragments,
    known::known,
    maps::{self, table},
    packet::Packet,
    recognise, report, reuse,
    seek::{self, seek},
    spill,
    tally::{Sum, add, note},
};

/// Which packets a hook counts. On a gateway's inside and on a mail host each direction passes one
/// hook, on a mirror both pass the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Toward {
    /// Packets to a watched port.
    Server,
    /// Packets from one.
    Client,
    /// Either.
    Both,
}

/// Whose packets a hook counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Everybody's.
    Any,
    /// The machine's own, at egress.
    Made,
    /// The machine's own, at ingress.
    Received,
}

/// Counts one frame: to its flow, or to the reason why not.
#[inline(always)]
pub(super) fn count<P: Packet>(packet: P, link: Link, toward: Toward, whose: Whose) {
    let mut pulled = false;
    loop {
        match book(&packet, link, toward, whose) {
            Ok(()) => return,
            // Headers may lie outside the linear area (drivers that receive into pages).
            Err(Reason::Truncated) if !pulled && packet.pull() => pulled = true,
            Err(reason) => {
                let Some(totals) = maps::totals() else { return };
                // SAFETY: this CPU's own element.
                unsafe { (*totals).reasons[reason as usize & 15] += 1 };
                report::lost(reason, packet.length());
                return;
            }
        }
    }
}

#[inline(always)]
fn book<P: Packet>(packet: &P, link: Link, toward: Toward, whose: Whose) -> Result<(), Reason> {
    let plain = glance(packet, link, packet.metadata());
    let located = match &plain {
        Some(plain) if !wanted(toward, plain.source_port, plain.destination_port) => {
            return Err(Reason::NotWatched);
        }
        Some(plain) => {
            if !(whose == Whose::Made && maps::local_only())
                && let Some(totals) = maps::totals()
                && let Some(scratch) = maps::scratch()
                // SAFETY: this CPU's own elements.
                && unsafe { known(packet, plain, toward, scratch, totals) }
            {
                return Ok(());
            }
            plain.located(packet)
        }
        None => {
            let located = locate(packet, link, packet.metadata())?;
            let Some((source, destination)) = located.ports() else {
                return fragments::later(packet, &located, toward);
            };
            if !wanted(toward, source, destination) {
                fragments::refused(packet, &located, toward, owner::UNWATCHED);
                return Err(Reason::NotWatched);
            }
            located
        }
    };
    // Here rather than at the end: nothing is looked up fast behind atomic additions.
    let Some(totals) = maps::totals() else { return Ok(()) };
    let segment = located.segment(packet)?;
    if whose == Whose::Made && maps::local_only() && packet.came_by() != 0 {
        fragments::refused(packet, &located, toward, owner::FOREIGN);
        return Err(Reason::NotLocal);
    }
    let may_begin = whose != Whose::Received || !maps::local_only();
    let packets = segment.packets(packet.gso());
    let sum = Sum { buffers: 1, packets, payload: segment.payload(), bytes: segment.bytes(packets) };
    let (tcp, now) = (segment.tcp, maps::now());

    let mut up = goes_up(toward, &segment);
    let Some(scratch) = maps::scratch() else { return Ok(()) };
    // SAFETY: what is found are elements of preallocated maps; `totals` and `scratch` are this CPU's own.
    unsafe {
        located.key(packet, up, &mut *(&raw mut (*scratch).key).cast())?;
        let key = &raw const (*scratch).key;
        table::turn_to(scratch, key);
        if tcp.bare_syn()
            && sum.payload == 0
            && may_begin
            && begin(packet, link, scratch, toward, tcp, &sum, now)
        {
            (*totals).syns.all += 1;
            sum.add_to(&raw mut (*totals).up);
            fragments::first(packet, &located, toward, &*key, up);
            return Ok(());
        }
        let mut flow = table::find(scratch);
        if flow.is_null() || reuse::ended(flow, tcp, up, now as u32) {
            let found = seek(scratch, tcp, up);
            if found != seek::NONE {
                flow = table::find(scratch);
                up = up == (found == seek::ALONG);
            } else if !may_begin {
                fragments::refused(packet, &located, toward, owner::FOREIGN);
                return Err(Reason::NotLocal);
            }
            if flow.is_null() {
                if counted_before(packet, toward, whose, &segment) {
                    fragments::refused(packet, &located, toward, owner::UNWATCHED);
                    return Err(Reason::NotWatched);
                }
                flow = create(packet, link, scratch, toward, up, now);
            } else if found == seek::NONE && reuse::retire(scratch, flow) == 1 {
                note_client(packet, link, flow, up);
                (*flow).facts.looked = side_of(toward, &*key, up);
            }
        }
        if flow.is_null() {
            spill::packet(&*key, up, tcp, sum);
        } else {
            if elsewhere(flow, toward, up) {
                fragments::refused(packet, &located, toward, owner::UNWATCHED);
                return Err(Reason::NotWatched);
            }
            if tcp.notable() {
                note(flow, tcp, up, totals);
            }
            if sum.payload != 0 {
                recognise::payload(packet, flow, &segment, up);
            }
            add(flow, up, &sum, now);
            sum.add_to(if up { &raw mut (*totals).up } else { &raw mut (*totals).down });
        }
        fragments::first(packet, &located, toward, &*key, up);
    }
    Ok(())
}

/// Whether a packet between these ports is counted.
#[inline(always)]
fn wanted(toward: Toward, source: u16, destination: u16) -> bool {
    match toward {
        Toward::Server => maps::watched(destination),
        Toward::Client => maps::watched(source),
        Toward::Both => maps::watched(destination) || maps::watched(source),
    }
}

/// Whether a segment goes up, as far as it tells by itself.
///
/// The SYN's sender is the client. Without a SYN a flow that lives decides, then the watched port, and
/// where both are watched the hook; on a mirror the lower port is the server. A flow that has ended
/// decides nothing: it is chance whether the agent has taken it out by now.
///
/// A flow whose tags are visible in one direction only is in the VLAN zone in which it began. A segment of its
/// other direction is in that zone afterwards.
#[inline(always)]
pub(super) fn goes_up(toward: Toward, segment: &Segment) -> bool {
    if segment.tcp.opens() {
        return segment.tcp.syn();
    }
    match toward {
        Toward::Server => true,
        Toward::Client => false,
        Toward::Both => {
            let to = maps::watched(segment.destination_port);
            let from = maps::watched(segment.source_port);
            if to && from { segment.destination_port <= segment.source_port } else { to }
        }
    }
}

/// Whether a packet whose flow is not in the table was counted where it came in: between two watched networks,
/// with a watched port at either end. Of a flow that is, [`elsewhere`] tells.
#[inline(always)]
fn counted_before<P: Packet>(packet: &P, toward: Toward, whose: Whose, segment: &Segment) -> bool {
    toward == Toward::Client
        && whose == Whose::Any
        && maps::watched(segment.destination_port)
        && maps::is_lan(packet.came_by())
}

/// Whether another hook than this one counts the flow's packets of this direction.
#[inline(always)]
pub(super) fn elsewhere(flow: *const FlowCounters, toward: Toward, up: bool) -> bool {
    let other = match toward {
        Toward::Both => return false,
        Toward::Server if up => side::TURNED,
        Toward::Client if !up => side::TURNED,
        _ => side::STRAIGHT,
    };
    // SAFETY: an element of a preallocated map.
    unsafe { (*flow).facts.looked & other != 0 }
}
