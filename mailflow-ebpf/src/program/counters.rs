//! Additions to flows, sources and totals.

use mailflow_common::{DirectionCounters, Facts, FlowCounters, HandshakeCounters, Totals, seen};
use mailflow_ebpf::Tcp;

use crate::maps::{self, PacketSum, add32, add64};

/// Adds to a direction of a flow.
///
/// Call before adding to the totals: a reader that reads the totals first never misses a packet in the flows.
#[inline(always)]
pub(super) unsafe fn add_to_flow(flow: *mut FlowCounters, up: bool, sum: &PacketSum, now: u64) {
    // SAFETY: the caller's: an element of a preallocated map, and this CPU's own totals.
    unsafe {
        add_to_direction(if up { &raw mut (*flow).up } else { &raw mut (*flow).down }, sum, now);
        let heard = if up { seen::UP } else { seen::DOWN };
        if (*flow).facts.seen & heard == 0 {
            (*flow).facts.seen |= heard;
        }
    }
}

/// Adds to a direction of a flow or a source. The counters are atomic; for the time any CPU's value is right.
#[inline(always)]
pub(super) unsafe fn add_to_direction(direction: *mut DirectionCounters, sum: &PacketSum, now: u64) {
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

/// Adds to the totals of this CPU for a direction.
#[inline(always)]
pub(super) fn add_to_totals(up: bool, sum: &PacketSum) {
    let Some(totals) = maps::totals() else { return };
    // SAFETY: this CPU's own element.
    unsafe { sum.add_to(if up { &raw mut (*totals).up } else { &raw mut (*totals).down }) }
}

/// Records the TCP flags of a segment.
///
/// A SYN of the server is its opening, as a SYN-ACK is (simultaneous open and split handshake: RFC 9293,
/// figures 7 and 8). The SYN-ACK with which the client answers that SYN adds nothing.
#[inline(always)]
pub(super) unsafe fn record_tcp_flags(flow: *mut FlowCounters, tcp: Tcp, up: bool, totals: *mut Totals) {
    // SAFETY: the caller's. Facts are bytes that only ever become 1.
    unsafe {
        let facts: *mut Facts = &raw mut (*flow).facts;
        if tcp.opens() && !up {
            let repeats = (*facts).syn_ack != 0 && (*flow).isn_down == tcp.sequence;
            count_handshake(&raw mut (*totals).syn_acks, repeats, &raw const (*flow).down);
            (*flow).isn_down = tcp.sequence;
            (*facts).syn_ack = 1;
        } else if tcp.syn() {
            let repeats = (*facts).syn != 0 && (*flow).isn_up == tcp.sequence;
            count_handshake(&raw mut (*totals).syns, repeats, &raw const (*flow).up);
            (*flow).isn_up = tcp.sequence;
            (*facts).syn = 1;
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

/// Counts a SYN or SYN-ACK. Call before adding to its direction.
#[inline(always)]
unsafe fn count_handshake(
    openings: *mut HandshakeCounters,
    repeats: bool,
    direction: *const DirectionCounters,
) {
    // SAFETY: the caller's: this CPU's own totals, and an element of a preallocated map.
    unsafe {
        (*openings).all += 1;
        if repeats && (maps::now() as u32).wrapping_sub((*direction).last) <= 1 {
            (*openings).copies += 1;
        }
    }
}
