//! When a tuple is used again: a packet begins a new flow where one has ended.

use mailflow_common::{DirectionCounters, Facts, FlowCounters, FlowKey, RetiredKey, Silences};
use mailflow_ebpf::Tcp;

use super::maps::{self, table};

/// Whether the flow ended before this packet: by silence, or by a SYN that cannot be its own.
#[inline(always)]
pub(super) unsafe fn ended(flow: *const FlowCounters, tcp: Option<Tcp>, up: bool) -> bool {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        let same = if up { &raw const (*flow).up } else { &raw const (*flow).down };
        let now = maps::now() as u32;
        // Most packets follow another one closely: then this load and this compare are all.
        if (*same).packets == 0 || silence(same, now) >= (*maps::silences()).least as i32 {
            let last = shortest(flow, now);
            if last >= patience(flow) {
                return true;
            }
        }
        match tcp {
            Some(tcp) if tcp.syn() => foreign(flow, tcp, up),
            _ => false,
        }
    }
}

/// Ticks since a direction's last packet; another CPU's may be of a tick that is yet to come here.
#[inline(always)]
unsafe fn silence(direction: *const DirectionCounters, now: u32) -> i32 {
    // SAFETY: the caller's.
    now.wrapping_sub(unsafe { (*direction).last }) as i32
}

/// Ticks since the flow's last packet.
#[inline(always)]
unsafe fn shortest(flow: *const FlowCounters, now: u32) -> i32 {
    // SAFETY: the caller's.
    unsafe {
        let (up, down) = (silence(&raw const (*flow).up, now), silence(&raw const (*flow).down, now));
        if (*flow).up.packets == 0 {
            down
        } else if (*flow).down.packets == 0 || up < down {
            up
        } else {
            down
        }
    }
}

/// How many ticks of silence end the flow.
#[inline(always)]
unsafe fn patience(flow: *const FlowCounters) -> i32 {
    let silences: *const Silences = maps::silences();
    // SAFETY: the caller's; the silences are words that are only ever written whole.
    unsafe {
        let facts = &(*flow).facts;
        let open = if facts.unanswered() { (*silences).unanswered } else { (*silences).idle };
        let end = if facts.closed() && (*silences).closed < open { (*silences).closed } else { open };
        end as i32
    }
}

/// Whether a SYN of the client belongs to another connection: another sequence number, and this one
/// has got further than its handshake.
#[inline(always)]
unsafe fn foreign(flow: *const FlowCounters, tcp: Tcp, up: bool) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let facts: *const Facts = &raw const (*flow).facts;
        let further =
            (*facts).fin_up != 0 || (*facts).fin_down != 0 || (*facts).reset != 0 || (*facts).looked != 0;
        up && further && ((*facts).syn == 0 || tcp.sequence != (*flow).isn_up)
    }
}

/// Puts the flow aside and makes its entry the next one's; `false` when another CPU was faster, or
/// when there is no room: then the tuple's flows stay one.
#[inline(always)]
pub(super) unsafe fn retire(key: &FlowKey, flow: *mut FlowCounters) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let Some(scratch) = maps::scratch() else { return false };
        let first = (*flow).first;
        (*scratch).retired = RetiredKey { flow: *key, first };
        if !table::retire(&(*scratch).retired, flow) {
            return false;
        }
        let now = maps::now();
        // Two flows of one tuple never begin at the same tick: the agent tells them by it.
        (*flow).first = if now > first { now } else { first + 1 };
        (*flow).facts = Facts::NONE;
        (*flow).pending = 0;
        true
    }
}
