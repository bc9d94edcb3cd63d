//! The short way of mail: a packet amid a connection whose flow is known.

use mailflow_common::Totals;
use mailflow_ebpf::Plain;

use super::{
    classify,
    context::Packet,
    counters::add,
    hook::Toward,
    slow_path::{elsewhere, goes_up},
    tuple_reuse,
};
use crate::maps::{self, Scratch, Sum, flow_table};

/// Counts such a packet. `false` where it is none: then nothing has been done about it.
#[inline(always)]
pub(super) unsafe fn known<P: Packet>(
    packet: &P,
    plain: &Plain,
    toward: Toward,
    scratch: *mut Scratch,
    totals: *mut Totals,
) -> bool {
    let Some(segment) = plain.amid(packet) else { return false };
    let up = goes_up(toward, &segment);
    let Some(place) = plain.place(packet, up) else { return false };
    let packets = segment.packets(packet.gso());
    let sum = Sum { buffers: 1, packets, payload: segment.payload(), bytes: segment.bytes(packets) };
    let now = maps::now();
    // SAFETY: what is found is an element of a preallocated map; the rest is the caller's.
    unsafe {
        (*scratch).place = place;
        let flow = flow_table::find_v4(scratch);
        if flow.is_null()
            || tuple_reuse::ended(flow, segment.tcp, up, now as u32)
            || elsewhere(flow, toward, up)
        {
            return false;
        }
        if sum.payload != 0 {
            classify::payload(packet, flow, &segment, up);
        }
        add(flow, up, &sum, now);
        sum.add_to(if up { &raw mut (*totals).up } else { &raw mut (*totals).down });
    }
    true
}
