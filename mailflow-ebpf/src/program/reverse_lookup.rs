//! Lookup of a flow by the reversed 5-tuple, or in another VLAN zone.
//!
//! The functions work on keys in the scratch memory, whose contents the verifier does not track: it verifies
//! them once for all kinds of packets.

use mailflow_common::{Facts, FlowCounters, FlowKey, seen};

use super::tuple_reuse;
use crate::maps::{self, Scratch, client_port, flow_table, vlan_zones};

/// Looks up a live flow by the reversed key, and then in the other VLAN zone. If there is one, the key in the
/// scratch memory becomes the key of that flow, and the direction is set. Otherwise the key of the table is
/// the packet's own again.
///
/// A SYN begins a flow with its own key, and a SYN-ACK gives its own direction, unless the other side's SYN
/// came first (simultaneous open and split handshake: RFC 9293, 3.5).
#[inline(never)]
pub(super) unsafe fn find_reversed_or_other_vlan(scratch: *mut Scratch) -> bool {
    // SAFETY: the caller's: this CPU's own element; what is found are elements of a preallocated map.
    unsafe {
        let tcp = (*scratch).segment.tcp;
        let up = (&raw const (*scratch).up).read_volatile() == 1;
        let opens = tcp.opens();
        let (key, turned) = (&raw mut (*scratch).key, &raw mut (*scratch).second_key);
        *turned = (*key).reversed();
        let may_be_reversed = !tcp.syn() || client_port::may_be_reversed(&*key);
        if may_be_reversed {
            let flow = lookup_key(scratch, turned);
            if !flow.is_null() && (!opens || is_opening(flow)) && !tuple_reuse::is_idle_outlined(flow, !up) {
                *key = *turned;
                flip_direction(scratch, up);
                return true;
            }
        }
        let own = (*key).scope;
        let zone = vlan_zones::lookup(&*key, &*turned);
        if !may_be_reversed && zone.is_none() {
            // The table was never turned away.
            return false;
        }
        if let Some(zone) = zone {
            if !tcp.syn() {
                (*key).scope = zone;
                let flow = lookup_key(scratch, key);
                if !flow.is_null() && same_flow_other_vlan(flow, up) {
                    return true;
                }
            }
            (*turned).scope = zone;
            let flow = lookup_key(scratch, turned);
            if !flow.is_null() && (!opens || is_opening(flow)) && same_flow_other_vlan(flow, !up) {
                *key = *turned;
                flip_direction(scratch, up);
                return true;
            }
            (*key).scope = own;
        }
        flow_table::set_key_outlined(scratch, key);
        false
    }
}

/// Returns true if a SYN of the server may be part of the flow: the client's SYN was seen, neither side has
/// closed the flow, and it began within the time in which a SYN is retransmitted.
#[inline(always)]
unsafe fn is_opening(flow: *const FlowCounters) -> bool {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        let facts: *const Facts = &raw const (*flow).facts;
        let age = maps::now().wrapping_sub((*flow).first) as i64;
        let waits = (&raw const (*maps::idle_timeouts()).unanswered).read_volatile();
        age <= i64::from(waits)
            && (*facts).syn != 0
            && (*facts).reset == 0
            && (*facts).fin_up == 0
            && (*facts).fin_down == 0
    }
}

/// Reverses the direction of the packet.
#[inline(always)]
unsafe fn flip_direction(scratch: *mut Scratch, up: bool) {
    // SAFETY: the caller's: this CPU's own element.
    unsafe { (&raw mut (*scratch).up).write_volatile(u32::from(!up)) }
}

#[inline(always)]
unsafe fn lookup_key(scratch: *mut Scratch, key: *const FlowKey) -> *mut FlowCounters {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        flow_table::set_key_outlined(scratch, key);
        flow_table::lookup(scratch)
    }
}

/// Returns true if a packet of this direction belongs to `flow`, which is in another VLAN zone. The flow has
/// to be alive, with no packet of this direction in its own zone.
#[inline(always)]
unsafe fn same_flow_other_vlan(flow: *mut FlowCounters, up: bool) -> bool {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        let known = (*flow).facts.seen;
        let heard = if up { seen::UP } else { seen::DOWN };
        if (known & heard != 0 && known & seen::OTHER_VLAN == 0) || tuple_reuse::is_idle_outlined(flow, up) {
            return false;
        }
        (*flow).facts.seen = known | seen::OTHER_VLAN;
        true
    }
}
