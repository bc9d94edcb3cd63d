//! Fast path: counts a mid-connection IPv4/TCP packet of an existing flow.

use mailflow_common::Totals;
use mailflow_ebpf::FastPathHeaders;

use super::{
    classify,
    context::Packet,
    counters::add_to_flow,
    hook::Direction,
    slow_path::{is_counted_at_other_hook, is_to_server},
    tuple_reuse,
};
use crate::maps::{self, PacketSum, Scratch, flow_table};

/// Counts the packet. Returns false, with nothing counted, if the slow path has to.
#[inline(always)]
pub(super) unsafe fn count_established<P: Packet>(
    packet: &P,
    plain: &FastPathHeaders,
    direction: Direction,
    scratch: *mut Scratch,
    totals: *mut Totals,
) -> bool {
    let Some(segment) = plain.established_segment(packet) else { return false };
    let up = is_to_server(direction, &segment);
    let Some(table_key) = plain.table_key(packet, up) else { return false };
    let packets = segment.packets(packet.gso());
    let sum = PacketSum { buffers: 1, packets, payload: segment.payload(), bytes: segment.bytes(packets) };
    let now = maps::now();
    // SAFETY: what is found is an element of a preallocated map; the rest is the caller's.
    unsafe {
        (*scratch).table_key = table_key;
        let flow = flow_table::lookup_v4(scratch);
        if flow.is_null()
            || tuple_reuse::is_expired(flow, segment.tcp, up, now as u32)
            || is_counted_at_other_hook(flow, direction, up)
        {
            return false;
        }
        if sum.payload != 0 {
            classify::inspect(packet, flow, &segment, up);
        }
        add_to_flow(flow, up, &sum, now);
        sum.add_to(if up { &raw mut (*totals).up } else { &raw mut (*totals).down });
    }
    true
}
