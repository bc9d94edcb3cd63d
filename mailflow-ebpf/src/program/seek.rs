//! The flow of a packet that is not where the packet itself points: the other way round, or in another VLAN
//! zone.
//!
//! The table is turned to that flow's place afterwards, or to the packet's own where there is none.
//!
//! A function of its own that works on keys in the scratch: the verifier does not follow what is stored there,
//! and so sees it once for all kinds of packets.

use mailflow_common::{FlowCounters, FlowKey, answered};
use mailflow_ebpf::Tcp;

use super::{
    maps::{Scratch, table, zones},
    reuse,
};

/// There is none.
pub(super) const NONE: u32 = 0;
/// The packet goes the way it was thought to.
pub(super) const ALONG: u32 = 1;
/// It goes the other way.
pub(super) const AGAINST: u32 = 2;

/// Looks for the living flow of a packet whose own key, which the scratch holds, has none. The key is that
/// flow's afterwards.
///
/// A SYN begins its flow where it is, and a SYN-ACK says which way it goes.
#[inline(always)]
pub(super) unsafe fn seek(scratch: *mut Scratch, tcp: Tcp, up: bool) -> u32 {
    if tcp.syn() {
        return NONE;
    }
    // SAFETY: the caller's: this CPU's own element.
    unsafe { search(scratch, u32::from(up), u32::from(!tcp.opens())) }
}

#[inline(never)]
unsafe fn search(scratch: *mut Scratch, up: u32, either: u32) -> u32 {
    // SAFETY: the caller's; what is found are elements of a preallocated map.
    unsafe {
        let (up, either) = (up == 1, either == 1);
        let (key, turned) = (&raw mut (*scratch).key, &raw mut (*scratch).turned);
        *turned = (*key).reversed();
        if either {
            let flow = find(scratch, turned);
            if !flow.is_null() && !reuse::ended_by_silence(flow, !up) {
                *key = *turned;
                return AGAINST;
            }
        }
        let own = (*key).scope;
        if let Some(zone) = zones::other(&*key, &*turned, either) {
            (*key).scope = zone;
            let flow = find(scratch, key);
            if !flow.is_null() && joins(flow, up) {
                return ALONG;
            }
            (*turned).scope = zone;
            if either {
                let flow = find(scratch, turned);
                if !flow.is_null() && joins(flow, !up) {
                    *key = *turned;
                    return AGAINST;
                }
            }
            (*key).scope = own;
        }
        table::turn_aside(scratch, key);
        NONE
    }
}

#[inline(always)]
unsafe fn find(scratch: *mut Scratch, key: *const FlowKey) -> *mut FlowCounters {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        table::turn_aside(scratch, key);
        table::find(scratch)
    }
}

/// Whether a segment of this direction belongs to `flow`, which is in another VLAN zone: as long as it lives,
/// and nothing of this direction came in its own.
#[inline(always)]
unsafe fn joins(flow: *mut FlowCounters, up: bool) -> bool {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        let known = (*flow).facts.answered;
        let heard = if up { answered::ASKED } else { answered::YES };
        if (known & heard != 0 && known & answered::ACROSS == 0) || reuse::ended_by_silence(flow, up) {
            return false;
        }
        (*flow).facts.answered = known | answered::ACROSS;
        true
    }
}
