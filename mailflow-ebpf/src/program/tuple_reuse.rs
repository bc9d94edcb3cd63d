//! When a tuple is used again: a packet begins a new flow where one has ended.

use core::arch::asm;

use mailflow_common::{DirectionCounters, Facts, FlowCounters, RetiredKey, Silences, side};
use mailflow_ebpf::Tcp;

use crate::maps::{
    self, Scratch,
    flow_table::{self, SupersedeOutcome},
};

/// Whether the flow ended before this packet: by silence, or by a SYN that cannot be its own.
#[inline(always)]
pub(super) unsafe fn is_expired(flow: *const FlowCounters, tcp: Tcp, up: bool, now: u32) -> bool {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe { is_idle(flow, up, now) || tcp.syn() && is_new_connection(flow, tcp, up) }
}

/// The same for a packet that is no SYN, as a function of its own: for what is off the usual way.
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

/// Ticks since a direction's last packet; another CPU's may be of a tick that is yet to come here.
#[inline(always)]
unsafe fn direction_idle_ticks(direction: *const DirectionCounters, now: u32) -> i32 {
    // SAFETY: the caller's.
    now.wrapping_sub(unsafe { (*direction).last }) as i32
}

/// Ticks since the flow's last packet.
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

/// How many ticks of silence end the flow.
#[inline(always)]
unsafe fn idle_timeout(flow: *const FlowCounters) -> i32 {
    let idle_timeouts: *const Silences = maps::idle_timeouts();
    // SAFETY: the caller's; the idle_timeouts are words that are only ever written whole.
    unsafe {
        let facts = &(*flow).facts;
        let open = if facts.unanswered() { (*idle_timeouts).unanswered } else { (*idle_timeouts).idle };
        let end =
            if facts.closed() && (*idle_timeouts).closed < open { (*idle_timeouts).closed } else { open };
        end as i32
    }
}

/// Returns true if a SYN of the client belongs to another connection: its sequence number is not that of this one's
/// SYN (RFC 9293, 3.4). A SYN that is sent again has the same.
///
/// Of a flow without a SYN it may be the one that came late, unless that flow has got further than its handshake.
///
/// A flow that another CPU is writing has no SYN to compare with yet, and began within this packet's time: it is never
/// another connection's.
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
        let looked = (*facts).looked & !side::BITS;
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

/// Puts the flow of the scratch's key aside and makes its entry the next one's: 1. 0 when it has not ended, as another
/// CPU has begun it since, when another CPU was faster, or when there is no room: then the tuple's flows stay one, and
/// that is counted.
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
        (*scratch).retired = RetiredKey { flow: (*scratch).key, first };
        copy_counters(flow, &raw mut (*scratch).entry.counters);
        // A finished flow needs no mark: the word tells when the next one began.
        (*scratch).entry.counters.mark = now as u32;
        match flow_table::supersede(&(*scratch).retired, &(*scratch).entry.counters) {
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
        // The clock is read again: what begins before a tick was put aside before it, which the agent
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
