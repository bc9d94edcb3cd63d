//! The counter: from a segment to its flow's counters.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use mailflow_common::{
    DirectionCounters, DirectionTotals, Facts, FlowCounters, FlowKey, Openings, Reason, Totals, owner,
};
use mailflow_ebpf::{Link, Segment, Tcp, locate};

use super::{
    fragments,
    maps::{self, table},
    packet::Packet,
    recognise, report, reuse, spill,
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
    let Some(totals) = maps::totals() else { return };
    let mut pulled = false;
    loop {
        match book(&packet, link, toward, whose, totals) {
            Ok(()) => return,
            // Headers may lie outside the linear area (drivers that receive into pages).
            Err(Reason::Truncated) if !pulled && packet.pull() => pulled = true,
            Err(reason) => {
                // SAFETY: this CPU's own element.
                unsafe { (*totals).reasons[reason as usize & 15] += 1 };
                report::lost(reason, packet.length());
                return;
            }
        }
    }
}

#[inline(always)]
fn book<P: Packet>(
    packet: &P,
    link: Link,
    toward: Toward,
    whose: Whose,
    totals: *mut Totals,
) -> Result<(), Reason> {
    let located = locate(packet, link, packet.metadata())?;
    let Some((source, destination)) = located.ports() else {
        return fragments::later(&located, toward, totals);
    };
    let wanted = match toward {
        Toward::Server => maps::watched(destination),
        Toward::Client => maps::watched(source),
        Toward::Both => maps::watched(destination) || maps::watched(source),
    };
    if !wanted {
        fragments::refused(&located, toward, owner::UNWATCHED, totals);
        return Err(Reason::NotWatched);
    }
    let segment = located.segment(packet)?;
    let foreign = whose == Whose::Made && maps::local_only() && packet.forwarded();
    let may_begin = whose != Whose::Received || !maps::local_only();
    let found = match foreign {
        true => Err(Reason::NotLocal),
        false => flow(packet, link, toward, &segment, may_begin, totals),
    };
    let (flow, up) = match found {
        Ok(found) => found,
        Err(reason) => {
            fragments::refused(&located, toward, owner::FOREIGN, totals);
            return Err(reason);
        }
    };

    let packets = segment.packets(packet.gso());
    let sum = Sum { buffers: 1, packets, payload: segment.payload(), bytes: segment.bytes(packets) };
    // SAFETY: `flow` points to an element of a preallocated map, `totals` to this CPU's own.
    unsafe {
        if flow.is_null() {
            let key = key(&segment, up);
            spill::packet(&key, up, segment.tcp, sum, totals);
            if let Some(fragment) = located.fragment() {
                fragments::first(&fragment, toward, &key, flow, up, totals);
            }
            return Ok(());
        }
        note(flow, segment.tcp, up, totals);
        if segment.payload() != 0 {
            recognise::payload(packet, flow, &segment, up);
        }
        add(flow, totals, up, &sum);
        if let Some(fragment) = located.fragment() {
            fragments::first(&fragment, toward, &key(&segment, up), flow, up, totals);
        }
    }
    Ok(())
}

/// The key of `segment`'s flow, were its sender the client.
#[inline(always)]
fn forward(segment: &Segment) -> FlowKey {
    FlowKey {
        client: segment.source,
        server: segment.destination,
        client_port: segment.source_port,
        server_port: segment.destination_port,
        scope: segment.scope,
    }
}

/// The key of `segment`'s flow.
#[inline(always)]
fn key(segment: &Segment, up: bool) -> FlowKey {
    if up { forward(segment) } else { forward(segment).reversed() }
}

/// The flow of `segment`, null where there is no room for it, and whether the segment goes up. Not an
/// option, for the verifier's sake as with [`Segment::tcp`].
///
/// The SYN's sender is the client. Without a SYN a flow that lives decides, then the watched port, and
/// where both are watched the hook; on a mirror the lower port is the server. A flow that has ended
/// decides nothing: it is chance whether the agent has taken it out by now.
#[inline(always)]
fn flow<P: Packet>(
    packet: &P,
    link: Link,
    toward: Toward,
    segment: &Segment,
    may_begin: bool,
    totals: *mut Totals,
) -> Result<(*mut FlowCounters, bool), Reason> {
    let forward = forward(segment);
    let (syn, syn_ack) = (segment.tcp.syn(), segment.tcp.syn_ack());
    let up = if syn || syn_ack {
        syn
    } else {
        match toward {
            Toward::Server => true,
            Toward::Client => false,
            Toward::Both => {
                let to = maps::watched(segment.destination_port);
                let from = maps::watched(segment.source_port);
                if to && from { segment.destination_port <= segment.source_port } else { to }
            }
        }
    };
    let key = if up { forward } else { forward.reversed() };
    let found = table::find(&key);
    // SAFETY: elements of a preallocated map.
    unsafe {
        if let Some(flow) = found
            && !reuse::ended(flow, segment.tcp, up)
        {
            return Ok((flow, up));
        }
        if !syn
            && !syn_ack
            && let Some(flow) = table::find(&key.reversed())
            && !reuse::ended_by_silence(flow, !up)
        {
            return Ok((flow, !up));
        }
        if !may_begin {
            return Err(Reason::NotLocal);
        }
        if let Some(flow) = found {
            if reuse::retire(&key, flow, totals) {
                note_client(packet, link, flow, up);
            }
            return Ok((flow, up));
        }
    }
    let Some(scratch) = maps::scratch() else { return Ok((core::ptr::null_mut(), up)) };
    // SAFETY: `scratch` is this CPU's own element.
    let created = unsafe {
        let new = &raw mut (*scratch).counters;
        clear(new);
        (*new).first = maps::now();
        note_client(packet, link, new, up);
        table::create(&key, &*new).unwrap_or(core::ptr::null_mut())
    };
    Ok((created, up))
}

/// Notes the client's MAC address, where a flow's first packet has one.
#[inline(always)]
unsafe fn note_client<P: Packet>(packet: &P, link: Link, flow: *mut FlowCounters, up: bool) {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        if let Link::Ethernet = link {
            (*flow).mac = recognise::client_mac(packet, up);
        }
    }
}

/// Writes zeros word by word: LLVM's own `memset` would store bytes.
#[inline(always)]
unsafe fn clear(counters: *mut FlowCounters) {
    const WORDS: usize = size_of::<FlowCounters>() / size_of::<u64>();
    let mut word = 0;
    while word < WORDS {
        // SAFETY: the caller's: within the counters, which are whole, aligned words.
        unsafe { counters.cast::<u64>().add(word).write_volatile(0) };
        word += 1;
    }
}

/// What one buffer, or several fragments, add to a flow.
#[repr(C)]
pub(super) struct Sum {
    pub(super) buffers: u32,
    pub(super) packets: u32,
    pub(super) payload: u32,
    pub(super) bytes: u64,
}

/// Adds to a direction of a flow and to this CPU's totals.
///
/// To the flow first: whoever reads the totals before the flows never finds a packet missing there.
#[inline(always)]
pub(super) unsafe fn add(flow: *mut FlowCounters, totals: *mut Totals, up: bool, sum: &Sum) {
    // SAFETY: the caller's: an element of a preallocated map, and this CPU's own totals.
    unsafe {
        tally(if up { &raw mut (*flow).up } else { &raw mut (*flow).down }, sum);
        if !up && (*flow).facts.answered == 0 {
            (*flow).facts.answered = 1;
        }
        total(if up { &raw mut (*totals).up } else { &raw mut (*totals).down }, sum);
    }
}

/// Adds to a direction of a flow or a source. Other CPUs add to it too, so its counters are added to
/// atomically; its time is a word of which any CPU's is right.
#[inline(always)]
pub(super) unsafe fn tally(direction: *mut DirectionCounters, sum: &Sum) {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        add64(&raw mut (*direction).packets, u64::from(sum.packets));
        add64(&raw mut (*direction).bytes, sum.bytes);
        if sum.payload != 0 {
            add64(&raw mut (*direction).payload, u64::from(sum.payload));
            add64(&raw mut (*direction).data_bytes, sum.bytes);
            add32(&raw mut (*direction).data_packets, sum.packets);
        }
        (*direction).last = maps::now() as u32;
    }
}

/// Adds to this CPU's totals.
#[inline(always)]
pub(super) unsafe fn total(total: *mut DirectionTotals, sum: &Sum) {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        (*total).buffers += u64::from(sum.buffers);
        (*total).packets += u64::from(sum.packets);
        (*total).bytes += sum.bytes;
    }
}

/// Notes the TCP facts of a segment; UDP has none.
#[inline(always)]
unsafe fn note(flow: *mut FlowCounters, tcp: Tcp, up: bool, totals: *mut Totals) {
    // SAFETY: the caller's. Facts are bytes that only ever become 1.
    unsafe {
        let facts: *mut Facts = &raw mut (*flow).facts;
        if tcp.syn() {
            let repeats = (*facts).syn != 0 && (*flow).isn_up == tcp.sequence;
            opening(&raw mut (*totals).syns, repeats, &raw const (*flow).up);
            (*flow).isn_up = tcp.sequence;
            (*facts).syn = 1;
        } else if tcp.syn_ack() {
            let repeats = (*facts).syn_ack != 0 && (*flow).isn_down == tcp.sequence;
            opening(&raw mut (*totals).syn_acks, repeats, &raw const (*flow).down);
            (*flow).isn_down = tcp.sequence;
            (*facts).syn_ack = 1;
        }
        if tcp.fin() {
            if up {
                (*facts).fin_up = 1;
            } else {
                (*facts).fin_down = 1;
            }
        }
        if tcp.reset() {
            (*facts).reset = 1;
        }
    }
}

/// Counts a SYN or SYN-ACK, before its direction is added to.
#[inline(always)]
unsafe fn opening(openings: *mut Openings, repeats: bool, direction: *const DirectionCounters) {
    // SAFETY: the caller's: this CPU's own totals, and an element of a preallocated map.
    unsafe {
        (*openings).all += 1;
        if repeats && (maps::now() as u32).wrapping_sub((*direction).last) <= 1 {
            (*openings).copies += 1;
        }
    }
}

#[inline(always)]
pub(super) unsafe fn add64(counter: *mut u64, value: u64) {
    // SAFETY: the caller's: an aligned word inside a map element.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

#[inline(always)]
pub(super) unsafe fn sub64(counter: *mut u64, value: u64) {
    // SAFETY: the caller's. Subtraction is addition around the end.
    unsafe { add64(counter, value.wrapping_neg()) };
}

#[inline(always)]
pub(super) unsafe fn add32(counter: *mut u32, value: u32) {
    // SAFETY: the caller's: an aligned word inside a map element.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, value) };
}
