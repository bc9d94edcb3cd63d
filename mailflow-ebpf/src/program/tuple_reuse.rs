//! Reuse of a 5-tuple: a packet begins a new flow if the previous one has ended.

use core::arch::asm;

use mailflow_common::{
    DirectionCounters, Facts, FlowCounters, IdleTimeoutTicks, SupersededKey, hook_orientation,
};
use mailflow_ebpf::Tcp;

use crate::maps::{
    self, Scratch,
    flow_table::{self, SupersedeOutcome},
};

/// Returns true if the flow ended before this packet: by an idle timeout, or because the SYN belongs to
/// another connection.
#[inline(always)]
pub(super) unsafe fn is_expired(flow: *const FlowCounters, tcp: Tcp, up: bool, now: u32) -> bool {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe { is_idle(flow, up, now) || tcp.syn() && is_new_connection(flow, tcp, up) }
}

/// Idle check for packets other than SYN, as a separate function for slow paths.
#[inline(never)]
pub(super) unsafe fn is_idle_outlined(flow: *const FlowCounters, up: bool) -> bool {
    // SAFETY: the caller's.
    unsafe { is_idle(flow, up, maps::now() as u32) }
}

#[inline(always)]
unsafe fn is_idle(flow: *const FlowCounters, up: bool, now: u32) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let same = if up { &raw const (*flow).up } else { &raw const (*flow).down };
        // Most packets follow another one closely: then this load and this compare are all.
        if (*same).packets() == 0 || direction_idle_ticks(same, now) >= (*maps::idle_timeouts()).least as i32
        {
            // One that another CPU is about to begin has no times yet.
            return (*flow).first != 0 && idle_ticks(flow, now) >= idle_timeout(flow);
        }
        false
    }
}

/// Returns the ticks since the last packet of a direction. Negative if another CPU's tick is ahead.
#[inline(always)]
unsafe fn direction_idle_ticks(direction: *const DirectionCounters, now: u32) -> i32 {
    // SAFETY: the caller's.
    now.wrapping_sub(unsafe { (*direction).last }) as i32
}

/// Returns the ticks since the last packet of the flow.
#[inline(always)]
unsafe fn idle_ticks(flow: *const FlowCounters, now: u32) -> i32 {
    // SAFETY: the caller's.
    unsafe {
        let (up, down) = (
            direction_idle_ticks(&raw const (*flow).up, now),
            direction_idle_ticks(&raw const (*flow).down, now),
        );
        if (*flow).up.packets() == 0 {
            down
        } else if (*flow).down.packets() == 0 || up < down {
            up
        } else {
            down
        }
    }
}

/// Returns the idle timeout of the flow, in ticks.
#[inline(always)]
unsafe fn idle_timeout(flow: *const FlowCounters) -> i32 {
    let idle_timeouts: *const IdleTimeoutTicks = maps::idle_timeouts();
    // SAFETY: the caller's; the idle_timeouts are words that are only ever written whole.
    unsafe {
        let facts = &(*flow).facts;
        let open = if facts.unanswered() { (*idle_timeouts).unanswered } else { (*idle_timeouts).idle };
        let end =
            if facts.closed() && (*idle_timeouts).closed < open { (*idle_timeouts).closed } else { open };
        end as i32
    }
}

/// Returns true if a SYN of the client belongs to another connection: its sequence number differs from the
/// flow's SYN (RFC 9293, 3.4). A retransmitted SYN has the same number.
///
/// For a flow without a SYN, a late SYN is its own unless the flow is beyond the handshake.
///
/// A flow that another CPU is still writing has no number to compare yet. It began within the time of this
/// packet, so the SYN is its own.
#[inline(always)]
unsafe fn is_new_connection(flow: *const FlowCounters, tcp: Tcp, up: bool) -> bool {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        let first = (&raw const (*flow).first).read_volatile();
        if first == 0 {
            return false;
        }
        let flow = load_after(flow, first);
        let facts: *const Facts = &raw const (*flow).facts;
        let looked = (*facts).inspected & !hook_orientation::BITS;
        let further = (*facts).fin_up != 0 || (*facts).fin_down != 0 || (*facts).reset != 0 || looked != 0;
        up && if (*facts).syn == 0 { further } else { tcp.sequence != (*flow).isn_up }
    }
}

/// Returns `flow` such that a load through it comes after the load of `first`: CPUs keep the order of two loads if the
/// address of the second depends on the value of the first (Documentation/memory-barriers.txt, address dependencies).
#[inline(always)]
fn load_after(flow: *const FlowCounters, first: u64) -> *const FlowCounters {
    let mut nothing = first;
    // SAFETY: one instruction on a register. As an instruction of our own: LLVM would take the dependency out.
    unsafe {
        asm!("{n} &= 0", n = inout(reg) nothing, options(pure, nomem, nostack, preserves_flags));
    }
    flow.wrapping_byte_add(nothing as usize)
}

/// Stores a copy of the ended flow for the agent, and makes its entry the next flow. Returns 1, or 0 if the
/// flow has not ended, another CPU was faster, or the map is full. In the last case the two flows are merged,
/// which is counted.
#[inline(never)]
pub(super) unsafe fn supersede(scratch: *mut Scratch, flow: *mut FlowCounters) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        let first = (*flow).first;
        let now = maps::now();
        let up = (&raw const (*scratch).up).read_volatile() == 1;
        if !is_expired(flow, (*scratch).segment.tcp, up, now as u32) {
            return 0;
        }
        (*scratch).superseded_key = SupersededKey { flow: (*scratch).key, first };
        copy_counters(flow, &raw mut (*scratch).entry.counters);
        // A finished flow needs no mark: the word tells when the next one began.
        (*scratch).entry.counters.mark = now as u32;
        match flow_table::supersede(&(*scratch).superseded_key, &(*scratch).entry.counters) {
            SupersedeOutcome::Stored => {}
            SupersedeOutcome::Exists => return 0,
            SupersedeOutcome::Full => {
                if let Some(totals) = maps::totals() {
                    (*totals).merged += 1;
                }
                return 0;
            }
        }
        (*flow).facts = Facts::NONE;
        (*flow).mark = (*flow).up.payload as u32;
        // The clock is read again: a flow that begins before a tick was superseded before it, which the agent
        // goes by. And two flows of one tuple never begin at the same tick: it tells them by that.
        let now = maps::now();
        let next = if now > first { now } else { first + 1 };
        (&raw mut (*flow).first).write_volatile(next);
        maps::client_port::record(&(*scratch).key, next);
        1
    }
}

/// Copies counters word by word, as other CPUs add to them.
#[inline(always)]
unsafe fn copy_counters(from: *const FlowCounters, to: *mut FlowCounters) {
    const WORDS: usize = size_of::<FlowCounters>() / size_of::<u64>();
    let mut word = 0;
    while word < WORDS {
        // SAFETY: the caller's: both are whole, aligned words.
        unsafe { to.cast::<u64>().add(word).write_volatile(from.cast::<u64>().add(word).read_volatile()) };
        word += 1;
    }
}
