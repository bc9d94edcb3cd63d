//! Slow path: finds or inserts the flow of a packet, and updates it.
//!
//! [`find_or_create`] and [`update_flow`] are separate functions that read the packet's headers from the
//! scratch memory, whose contents the verifier does not track: it verifies each of them once for all kinds of
//! packets.

use mailflow_common::{FlowCounters, Reason, Totals, fragment_owner, hook_orientation, seen};
use mailflow_ebpf::{Segment, Tcp};

use super::{
    classify,
    context::Packet,
    counters::{add_to_flow, record_tcp_flags},
    fragments,
    hook::{Direction, Hook, HostFilter},
    insert_flow::{hook_orientation, insert_flow, insert_syn_flow, record_origin},
    mptcp, overflow,
    reverse_lookup::find_reversed_or_other_vlan,
    tuple_reuse,
};
use crate::maps::{self, Options, PacketSum, Scratch, flow_table};

/// Answer of [`find_or_create`] and [`update_flow`]: the packet is counted.
pub(super) const COUNTED: u32 = u32::MAX;
/// Answer of [`find_or_create`]: the flow is found, and the packet is still to be counted.
pub(super) const FOUND: u32 = u32::MAX - 1;
/// Answers: the reasons why the packet is not counted.
pub(super) const NOT_LOCAL: u32 = Reason::NotLocal as u32;
pub(super) const NOT_WATCHED: u32 = Reason::NotWatched as u32;
const TRUNCATED: u32 = Reason::Truncated as u32;

/// Stores the counts and the direction of a packet in the scratch memory, and sets the key of the table.
#[inline(always)]
unsafe fn prepare<P: Packet>(packet: &P, scratch: *mut Scratch, direction: Direction) -> Result<(), Reason> {
    // SAFETY: the caller's: this CPU's own.
    unsafe {
        let (parsed, segment) = (&*(&raw const (*scratch).parsed), &*(&raw const (*scratch).segment));
        let packets = segment.packets(packet.gso());
        let sum =
            PacketSum { buffers: 1, packets, payload: segment.payload(), bytes: segment.bytes(packets) };
        let up = is_to_server(direction, segment);
        (&raw mut (*scratch).sum).write_volatile(sum);
        (&raw mut (*scratch).up).write_volatile(u32::from(up));
        parsed.key(packet, up, &mut *(&raw mut (*scratch).key).cast())?;
        flow_table::set_key(scratch, &raw const (*scratch).key);
        Ok(())
    }
}

/// Counts a packet to its flow, or to its source if there is no entry.
#[inline(never)]
pub(super) unsafe fn update_flow<P: Packet>(
    packet: P,
    scratch: *mut Scratch,
    totals: *mut Totals,
    hook: Hook,
) -> u32 {
    // SAFETY: what is found is an element of a preallocated map; the rest is the caller's: this CPU's own.
    unsafe {
        let (parsed, segment) = (&*(&raw const (*scratch).parsed), &*(&raw const (*scratch).segment));
        let (tcp, now, key) = (segment.tcp, maps::now(), &(*scratch).key);
        let sum = (&raw const (*scratch).sum).read_volatile();
        let up = (&raw const (*scratch).up).read_volatile() == 1;
        let flow = flow_table::cached_entry(scratch);
        if flow.is_null() {
            overflow::count_packet(key, up, tcp, sum);
        } else {
            if is_counted_at_other_hook(flow, hook.direction(), up) {
                fragments::reject_fragments(&packet, parsed, hook.direction(), fragment_owner::UNWATCHED);
                return NOT_WATCHED;
            }
            if tcp.notable() {
                record_tcp_flags(flow, tcp, up, totals);
            }
            if tcp.opens() {
                record_mptcp_join(scratch, flow, tcp, up);
            }
            if sum.payload != 0 {
                classify::inspect(&packet, flow, segment, up);
            }
            add_to_flow(flow, up, &sum, now);
            sum.add_to(if up { &raw mut (*totals).up } else { &raw mut (*totals).down });
        }
        fragments::record_first(&packet, parsed, hook.direction(), key, up);
        COUNTED
    }
}

/// Records that a SYN asks to join another MPTCP connection, or that the server agrees.
#[inline(always)]
unsafe fn record_mptcp_join(scratch: *const Scratch, flow: *mut FlowCounters, tcp: Tcp, up: bool) {
    // SAFETY: the caller's: an element of a preallocated map; this CPU's own scratch.
    unsafe {
        if !Options::join(scratch) {
            return;
        }
        let known = (*flow).facts.seen;
        if up && tcp.syn() {
            (*flow).facts.seen = known | seen::MPTCP_JOIN;
        } else if !up && known & seen::MPTCP_JOIN != 0 {
            (*flow).facts.seen = known | seen::MPTCP_JOINED;
        }
    }
}

/// Finds or inserts the flow of a packet, for [`update_flow`]. Returns `FOUND`, the reason why the packet is
/// not counted, or `COUNTED` for the first SYN of a new flow.
#[inline(never)]
pub(super) unsafe fn find_or_create<P: Packet>(
    packet: P,
    scratch: *mut Scratch,
    totals: *mut Totals,
    hook: Hook,
) -> u32 {
    // SAFETY: what is found is an element of a preallocated map; the rest is the caller's: this CPU's own.
    unsafe {
        if prepare(&packet, scratch, hook.direction()).is_err() {
            return TRUNCATED;
        }
        let (parsed, segment) = (&*(&raw const (*scratch).parsed), &*(&raw const (*scratch).segment));
        let up = (&raw const (*scratch).up).read_volatile() == 1;
        if segment.tcp.opens() {
            Options::clear(scratch);
            mptcp::find_join(packet, scratch);
        }
        let flow = flow_table::lookup(scratch);
        if !flow.is_null() && !tuple_reuse::is_expired(flow, segment.tcp, up, maps::now() as u32)
            || find_reversed_or_other_vlan(scratch)
        {
            return FOUND;
        }
        if hook.host_filter() == HostFilter::LocalIn && maps::count_local_only() {
            fragments::reject_fragments(&packet, parsed, hook.direction(), fragment_owner::FOREIGN);
            return NOT_LOCAL;
        }
        // Once more: the verifier would follow what was found through all of the search.
        let flow = flow_table::lookup(scratch);
        if !flow.is_null() {
            if tuple_reuse::supersede(scratch, flow) == 1 {
                record_origin(&packet, hook.link(), flow, up);
                (*flow).facts.inspected = hook_orientation(hook.direction(), &(*scratch).key, up);
            }
            return FOUND;
        }
        if segment.tcp.bare_syn() && segment.payload() == 0 {
            let sum = (&raw const (*scratch).sum).read_volatile();
            if insert_syn_flow(
                &packet,
                hook.link(),
                scratch,
                hook.direction(),
                segment.tcp,
                &sum,
                maps::now(),
            ) {
                (*totals).syns.all += 1;
                sum.add_to(&raw mut (*totals).up);
                fragments::record_first(&packet, parsed, hook.direction(), &(*scratch).key, true);
                return COUNTED;
            }
            // Another CPU was faster, or there is no room.
            if !flow_table::lookup(scratch).is_null() {
                return FOUND;
            }
        }
        if was_counted_at_ingress(&packet, hook.direction(), hook.host_filter(), segment) {
            fragments::reject_fragments(&packet, parsed, hook.direction(), fragment_owner::UNWATCHED);
            return NOT_WATCHED;
        }
        insert_flow(&packet, hook.link(), scratch, hook.direction(), up, maps::now());
        FOUND
    }
}

/// Returns true if a packet goes from client to server, as far as the packet alone tells.
///
/// The sender of the SYN is the client. Without a SYN a live flow decides, then the watched port, and if both
/// ports are watched the hook; on a mirror the lower port is the server. An ended flow decides nothing, as
/// the agent may have evicted it.
///
/// A flow whose tags are visible in one direction only is in the VLAN zone in which it began. Packets of its
/// other direction are in that zone afterwards.
#[inline(always)]
pub(super) fn is_to_server(direction: Direction, segment: &Segment) -> bool {
    if segment.tcp.opens() {
        return segment.tcp.syn();
    }
    match direction {
        Direction::ToServer => true,
        Direction::FromServer => false,
        Direction::Both => {
            let to = maps::watched(segment.destination_port);
            let from = maps::watched(segment.source_port);
            if to && from { segment.destination_port <= segment.source_port } else { to }
        }
    }
}

/// Returns true if a packet whose flow is not in the table was counted at ingress: between two `lan`
/// interfaces, with a watched port at either end. For a flow in the table see [`is_counted_at_other_hook`].
#[inline(always)]
fn was_counted_at_ingress<P: Packet>(
    packet: &P,
    direction: Direction,
    host_filter: HostFilter,
    segment: &Segment,
) -> bool {
    direction == Direction::FromServer
        && host_filter == HostFilter::Any
        && maps::watched(segment.destination_port)
        && maps::is_lan_interface(packet.ingress_interface())
}

/// Returns true if another hook counts the flow's packets of this direction.
#[inline(always)]
pub(super) fn is_counted_at_other_hook(flow: *const FlowCounters, direction: Direction, up: bool) -> bool {
    let other = match direction {
        Direction::Both => return false,
        Direction::ToServer if up => hook_orientation::SWAPPED,
        Direction::FromServer if !up => hook_orientation::SWAPPED,
        _ => hook_orientation::NORMAL,
    };
    // SAFETY: an element of a preallocated map.
    unsafe { (*flow).facts.inspected & other != 0 }
}
