//! The counter: from a segment to its flow's counters.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
};

use mailflow_common::{DirectionCounters, DirectionTotals, Facts, FlowCounters, FlowKey, Reason, Totals};
use mailflow_ebpf::{Link, Segment, Tcp, parse};

use super::{
    maps::{self, table},
    packet::Packet,
    recognise,
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
    let segment = parse(packet, link, packet.metadata(), |source, destination| match toward {
        Toward::Server => maps::watched(destination),
        Toward::Client => maps::watched(source),
        Toward::Both => maps::watched(destination) || maps::watched(source),
    })?;
    if whose == Whose::Made && maps::local_only() && packet.forwarded() {
        return Err(Reason::NotLocal);
    }
    let may_begin = whose != Whose::Received || !maps::local_only();
    let (flow, up) = flow(packet, link, toward, &segment, may_begin)?;

    let packets = segment.packets(packet.gso());
    let bytes = segment.bytes(packets);
    // SAFETY: `flow` points to an element of a preallocated map, `totals` to this CPU's own.
    unsafe {
        let (direction, total) = if up {
            (&raw mut (*flow).up, &raw mut (*totals).up)
        } else {
            (&raw mut (*flow).down, &raw mut (*totals).down)
        };
        sum(total, packets, bytes);
        if let Some(tcp) = segment.tcp {
            note(flow, tcp, up);
        }
        if segment.payload() != 0 {
            recognise::payload(packet, flow, &segment, up);
        }
        add(direction, &segment, packets, bytes);
    }
    Ok(())
}

/// The flow of `segment`, and whether the segment goes up.
///
/// The SYN's sender is the client. Without a SYN an entry that exists decides, then the watched
/// port, and where both are watched the hook; on a mirror the lower port is the server.
#[inline(always)]
fn flow<P: Packet>(
    packet: &P,
    link: Link,
    toward: Toward,
    segment: &Segment,
    may_begin: bool,
) -> Result<(*mut FlowCounters, bool), Reason> {
    let forward = FlowKey {
        client: segment.source,
        server: segment.destination,
        client_port: segment.source_port,
        server_port: segment.destination_port,
        scope: segment.scope,
    };
    let (syn, syn_ack) = match segment.tcp {
        Some(tcp) => (tcp.syn(), tcp.syn_ack()),
        None => (false, false),
    };
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
    if let Some(flow) = table::find(&key) {
        return Ok((flow, up));
    }
    if !syn && !syn_ack {
        if let Some(flow) = table::find(&key.reversed()) {
            return Ok((flow, !up));
        }
    }
    if !may_begin {
        return Err(Reason::NotLocal);
    }
    let mut counters = MaybeUninit::<FlowCounters>::uninit();
    let new = counters.as_mut_ptr();
    // SAFETY: `new` points to a value on the stack, of which `clear` writes every byte; zero is a
    // value of every field. It is not moved: LLVM would call a `memset` for the copy.
    let created = unsafe {
        clear(new);
        (*new).first = maps::now();
        (*new).facts.midstream = (segment.tcp.is_some() && !syn && !syn_ack) as u8;
        if let Link::Ethernet = link {
            (*new).mac = recognise::client_mac(packet, up);
        }
        table::create(&key, &*new)
    };
    created.map(|flow| (flow, up)).ok_or(Reason::TableFull)
}

/// Writes zeros word by word: LLVM's own `memset` stores bytes.
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

#[inline(always)]
unsafe fn sum(total: *mut DirectionTotals, packets: u32, bytes: u64) {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        (*total).buffers += 1;
        (*total).packets += u64::from(packets);
        (*total).bytes += bytes;
    }
}

#[inline(always)]
unsafe fn add(direction: *mut DirectionCounters, segment: &Segment, packets: u32, bytes: u64) {
    // SAFETY: the caller's: an element of a preallocated map. Other CPUs add to it too, so the
    // counters are added to atomically; the time is a word of which any CPU's is right.
    unsafe {
        add64(&raw mut (*direction).packets, u64::from(packets));
        add64(&raw mut (*direction).bytes, bytes);
        if segment.payload() != 0 {
            add64(&raw mut (*direction).payload, u64::from(segment.payload()));
            add64(&raw mut (*direction).data_bytes, bytes);
            add32(&raw mut (*direction).data_packets, packets);
        }
        (*direction).last = maps::now() as u32;
    }
}

/// Notes the TCP facts of a segment.
#[inline(always)]
unsafe fn note(flow: *mut FlowCounters, tcp: Tcp, up: bool) {
    // SAFETY: the caller's. Facts are bytes that only ever become 1.
    unsafe {
        let facts: *mut Facts = &raw mut (*flow).facts;
        if tcp.syn() {
            (*flow).isn_up = tcp.sequence;
            (*facts).syn = 1;
        } else if tcp.syn_ack() {
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

#[inline(always)]
pub(super) unsafe fn add64(counter: *mut u64, value: u64) {
    // SAFETY: the caller's: an aligned word inside a map element.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

#[inline(always)]
pub(super) unsafe fn add32(counter: *mut u32, value: u32) {
    // SAFETY: the caller's: an aligned word inside a map element.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, value) };
}
