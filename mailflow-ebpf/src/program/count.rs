//! The counter: from a segment to its flow's counters.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
    ptr,
};

use mailflow_common::{
    DirectionCounters, DirectionTotals, Facts, FlowCounters, FlowKey, Openings, Reason, Totals, owner,
};
use mailflow_ebpf::{Link, Segment, Tcp, glance, locate};

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
    let located = match glance(packet, link, packet.metadata()) {
        Some(plain) if !wanted(toward, plain.source_port, plain.destination_port) => {
            return Err(Reason::NotWatched);
        }
        Some(plain) => plain.located(packet),
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
    if whose == Whose::Made && maps::local_only() && packet.forwarded() {
        fragments::refused(packet, &located, toward, owner::FOREIGN);
        return Err(Reason::NotLocal);
    }
    let may_begin = whose != Whose::Received || !maps::local_only();
    let packets = segment.packets(packet.gso());
    let sum = Sum { buffers: 1, packets, payload: segment.payload(), bytes: segment.bytes(packets) };
    let (tcp, now) = (segment.tcp, maps::now());

    let mut up = goes_up(toward, &segment);
    let mut place = MaybeUninit::uninit();
    let key = located.key(packet, up, &mut place)?;
    // SAFETY: what is found are elements of preallocated maps, and `totals` is this CPU's own.
    unsafe {
        if tcp.bare_syn() && sum.payload == 0 && may_begin && begin(packet, link, key, tcp, &sum, now) {
            (*totals).syns.all += 1;
            sum.add_to(&raw mut (*totals).up);
            fragments::first(packet, &located, toward, key, up);
            return Ok(());
        }
        let mut flow = table::find(key).unwrap_or(ptr::null_mut());
        if flow.is_null() || reuse::ended(flow, tcp, up, now as u32) {
            let turned = if tcp.opens() { None } else { table::find(&key.reversed()) };
            if let Some(turned) = turned
                && !reuse::ended_by_silence(turned, !up)
            {
                (flow, up) = (turned, !up);
                *key = key.reversed();
            } else if !may_begin {
                fragments::refused(packet, &located, toward, owner::FOREIGN);
                return Err(Reason::NotLocal);
            } else if flow.is_null() {
                flow = create(packet, link, key, up, now);
            } else if reuse::retire(key, flow) {
                note_client(packet, link, flow, up);
            }
        }
        if flow.is_null() {
            spill::packet(key, up, tcp, sum);
        } else {
            if tcp.notable() {
                note(flow, tcp, up, totals);
            }
            if sum.payload != 0 {
                recognise::payload(packet, flow, &segment, up);
            }
            add(flow, up, &sum, now);
            sum.add_to(if up { &raw mut (*totals).up } else { &raw mut (*totals).down });
        }
        fragments::first(packet, &located, toward, key, up);
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
#[inline(always)]
fn goes_up(toward: Toward, segment: &Segment) -> bool {
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

/// Makes a flow of nothing but its SYN, as nearly all begin, in one step; `false` where there is
/// one already, or no room for it.
#[inline(always)]
unsafe fn begin<P: Packet>(packet: &P, link: Link, key: &FlowKey, tcp: Tcp, sum: &Sum, now: u64) -> bool {
    let Some(scratch) = maps::scratch() else { return false };
    // SAFETY: this CPU's own element.
    unsafe {
        let new = &raw mut (*scratch).counters;
        clear(new);
        (*new).up.bare_packets = sum.packets;
        (*new).up.bare_bytes = sum.bytes;
        (*new).up.last = now as u32;
        (*new).first = now;
        (*new).isn_up = tcp.sequence;
        (*new).facts.syn = 1;
        note_client(packet, link, new, true);
        table::insert(key, &*new)
    }
}

/// Makes a flow that is still to be counted into, though another CPU may have been faster; null where
/// there is no room. Not an option: where the compiler leaves a part of one undefined, the verifier
/// sees what lay there before.
#[inline(always)]
unsafe fn create<P: Packet>(packet: &P, link: Link, key: &FlowKey, up: bool, now: u64) -> *mut FlowCounters {
    let Some(scratch) = maps::scratch() else { return ptr::null_mut() };
    // SAFETY: this CPU's own element.
    unsafe {
        let new = &raw mut (*scratch).counters;
        clear(new);
        (*new).first = now;
        note_client(packet, link, new, up);
        table::insert(key, &*new);
    }
    table::find(key).unwrap_or(ptr::null_mut())
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

impl Sum {
    /// Adds to totals, which must be this CPU's own.
    #[inline(always)]
    pub(super) unsafe fn add_to(&self, total: *mut DirectionTotals) {
        // SAFETY: the caller's.
        unsafe {
            (*total).buffers += u64::from(self.buffers);
            (*total).packets += u64::from(self.packets);
            (*total).bytes += self.bytes;
        }
    }
}

/// Adds to a direction of a flow.
///
/// To the flow first, then to the totals: whoever reads the totals before the flows never finds a
/// packet missing there.
#[inline(always)]
pub(super) unsafe fn add(flow: *mut FlowCounters, up: bool, sum: &Sum, now: u64) {
    // SAFETY: the caller's: an element of a preallocated map, and this CPU's own totals.
    unsafe {
        tally(if up { &raw mut (*flow).up } else { &raw mut (*flow).down }, sum, now);
        if !up && (*flow).facts.answered == 0 {
            (*flow).facts.answered = 1;
        }
    }
}

/// Adds to a direction of a flow or a source. Other CPUs add to it too, so its counters are added to
/// atomically; its time is a word of which any CPU's is right.
#[inline(always)]
pub(super) unsafe fn tally(direction: *mut DirectionCounters, sum: &Sum, now: u64) {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        if sum.payload != 0 {
            add64(&raw mut (*direction).data_packets, u64::from(sum.packets));
            add64(&raw mut (*direction).data_bytes, sum.bytes);
            add64(&raw mut (*direction).payload, u64::from(sum.payload));
        } else {
            add32(&raw mut (*direction).bare_packets, sum.packets);
            add64(&raw mut (*direction).bare_bytes, sum.bytes);
        }
        (*direction).last = now as u32;
    }
}

/// Adds to this CPU's totals of a direction.
#[inline(always)]
pub(super) fn total(up: bool, sum: &Sum) {
    let Some(totals) = maps::totals() else { return };
    // SAFETY: this CPU's own element.
    unsafe { sum.add_to(if up { &raw mut (*totals).up } else { &raw mut (*totals).down }) }
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
