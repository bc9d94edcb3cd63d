//! From a packet, of which the scratch tells, to its flow.
//!
//! [`owner`] and [`join`] are functions of their own that read what is known of the packet from the scratch:
//! the verifier does not follow what is stored there, and so sees each of them once for all kinds of packets.

use mailflow_common::{FlowCounters, Reason, Totals, answered, owner, side};
use mailflow_ebpf::{Segment, Tcp};

use super::{
    classify,
    context::Packet,
    counters::{add, note},
    fragments,
    hook::{Hook, Toward, Whose},
    insert_flow::{begin, create, note_origin, side_of},
    mptcp, overflow,
    reverse_lookup::seek,
    tuple_reuse,
};
use crate::maps::{self, Options, Scratch, Sum, flow_table};

/// What [`owner`] and [`join`] answer where they have counted ...
pub(super) const COUNTED: u32 = u32::MAX;
/// ... where that is still to be done ...
pub(super) const OPEN: u32 = u32::MAX - 1;
/// ... and where it is not to be.
pub(super) const NOT_LOCAL: u32 = Reason::NotLocal as u32;
pub(super) const NOT_WATCHED: u32 = Reason::NotWatched as u32;
const TRUNCATED: u32 = Reason::Truncated as u32;

/// Notes in the scratch what a packet adds and which way it goes, and turns to the place of its flow.
#[inline(always)]
unsafe fn measure<P: Packet>(packet: &P, scratch: *mut Scratch, toward: Toward) -> Result<(), Reason> {
    // SAFETY: the caller's: this CPU's own.
    unsafe {
        let (located, segment) = (&*(&raw const (*scratch).located), &*(&raw const (*scratch).segment));
        let packets = segment.packets(packet.gso());
        let sum = Sum { buffers: 1, packets, payload: segment.payload(), bytes: segment.bytes(packets) };
        let up = goes_up(toward, segment);
        (&raw mut (*scratch).sum).write_volatile(sum);
        (&raw mut (*scratch).up).write_volatile(u32::from(up));
        located.key(packet, up, &mut *(&raw mut (*scratch).key).cast())?;
        flow_table::turn_to(scratch, &raw const (*scratch).key);
        Ok(())
    }
}

/// Counts a packet to its flow, or else to its source.
#[inline(never)]
pub(super) unsafe fn join<P: Packet>(
    packet: P,
    scratch: *mut Scratch,
    totals: *mut Totals,
    hook: Hook,
) -> u32 {
    // SAFETY: what is found is an element of a preallocated map; the rest is the caller's: this CPU's own.
    unsafe {
        let (located, segment) = (&*(&raw const (*scratch).located), &*(&raw const (*scratch).segment));
        let (tcp, now, key) = (segment.tcp, maps::now(), &(*scratch).key);
        let sum = (&raw const (*scratch).sum).read_volatile();
        let up = (&raw const (*scratch).up).read_volatile() == 1;
        let flow = flow_table::found(scratch);
        if flow.is_null() {
            overflow::packet(key, up, tcp, sum);
        } else {
            if elsewhere(flow, hook.toward(), up) {
                fragments::refused(&packet, located, hook.toward(), owner::UNWATCHED);
                return NOT_WATCHED;
            }
            if tcp.notable() {
                note(flow, tcp, up, totals);
            }
            if tcp.opens() {
                agree(scratch, flow, tcp, up);
            }
            if sum.payload != 0 {
                classify::payload(&packet, flow, segment, up);
            }
            add(flow, up, &sum, now);
            sum.add_to(if up { &raw mut (*totals).up } else { &raw mut (*totals).down });
        }
        fragments::first(&packet, located, hook.toward(), key, up);
        COUNTED
    }
}

/// Notes that a SYN asks to join its flow to another connection, or that the server agrees to that.
#[inline(always)]
unsafe fn agree(scratch: *const Scratch, flow: *mut FlowCounters, tcp: Tcp, up: bool) {
    // SAFETY: the caller's: an element of a preallocated map; this CPU's own scratch.
    unsafe {
        if !Options::join(scratch) {
            return;
        }
        let known = (*flow).facts.answered;
        if up && tcp.syn() {
            (*flow).facts.answered = known | answered::JOINS;
        } else if !up && known & answered::JOINS != 0 {
            (*flow).facts.answered = known | answered::JOINED;
        }
    }
}

/// Finds the flow of a packet, or makes it, for [`join`]: `OPEN`, or why the packet is not to be counted. `COUNTED` where
/// a SYN is all that there is of its flow so far.
#[inline(never)]
pub(super) unsafe fn owner<P: Packet>(
    packet: P,
    scratch: *mut Scratch,
    totals: *mut Totals,
    hook: Hook,
) -> u32 {
    // SAFETY: what is found is an element of a preallocated map; the rest is the caller's: this CPU's own.
    unsafe {
        if measure(&packet, scratch, hook.toward()).is_err() {
            return TRUNCATED;
        }
        let (located, segment) = (&*(&raw const (*scratch).located), &*(&raw const (*scratch).segment));
        let up = (&raw const (*scratch).up).read_volatile() == 1;
        if segment.tcp.opens() {
            Options::clear(scratch);
            mptcp::look(packet, scratch);
        }
        let flow = flow_table::find(scratch);
        if !flow.is_null() && !tuple_reuse::ended(flow, segment.tcp, up, maps::now() as u32) || seek(scratch)
        {
            return OPEN;
        }
        if hook.whose() == Whose::Received && maps::local_only() {
            fragments::refused(&packet, located, hook.toward(), owner::FOREIGN);
            return NOT_LOCAL;
        }
        // Once more: the verifier would follow what was found through all of the search.
        let flow = flow_table::find(scratch);
        if !flow.is_null() {
            if tuple_reuse::retire(scratch, flow) == 1 {
                note_origin(&packet, hook.link(), flow, up);
                (*flow).facts.looked = side_of(hook.toward(), &(*scratch).key, up);
            }
            return OPEN;
        }
        if segment.tcp.bare_syn() && segment.payload() == 0 {
            let sum = (&raw const (*scratch).sum).read_volatile();
            if begin(&packet, hook.link(), scratch, hook.toward(), segment.tcp, &sum, maps::now()) {
                (*totals).syns.all += 1;
                sum.add_to(&raw mut (*totals).up);
                fragments::first(&packet, located, hook.toward(), &(*scratch).key, true);
                return COUNTED;
            }
            // Another CPU was faster, or there is no room.
            if !flow_table::find(scratch).is_null() {
                return OPEN;
            }
        }
        if counted_before(&packet, hook.toward(), hook.whose(), segment) {
            fragments::refused(&packet, located, hook.toward(), owner::UNWATCHED);
            return NOT_WATCHED;
        }
        create(&packet, hook.link(), scratch, hook.toward(), up, maps::now());
        OPEN
    }
}

/// Whether a segment goes up, as far as it tells by itself.
///
/// The SYN's sender is the client. Without a SYN a flow that lives decides, then the watched port, and
/// where both are watched the hook; on a mirror the lower port is the server. A flow that has ended
/// decides nothing: it is chance whether the agent has taken it out by now.
///
/// A flow whose tags are visible in one direction only is in the VLAN zone in which it began. A segment of its
/// other direction is in that zone afterwards.
#[inline(always)]
pub(super) fn goes_up(toward: Toward, segment: &Segment) -> bool {
    if segment.tcp.opens() {
        return segment.tcp.syn();
    }
    match toward {
        Toward::Server => true,
        Toward::Client => false,
        Toward::Both => {
            let to = maps::watched(segment.destination_port);
            let from = maps::watched(segment.source_port);
            if to && from { segment.destination_port <= segment.source_port } else { to }
        }
    }
}

/// Whether a packet whose flow is not in the table was counted where it came in: between two watched networks,
/// with a watched port at either end. Of a flow that is, [`elsewhere`] tells.
#[inline(always)]
fn counted_before<P: Packet>(packet: &P, toward: Toward, whose: Whose, segment: &Segment) -> bool {
    toward == Toward::Client
        && whose == Whose::Any
        && maps::watched(segment.destination_port)
        && maps::is_lan(packet.came_by())
}

/// Whether another hook than this one counts the flow's packets of this direction.
#[inline(always)]
pub(super) fn elsewhere(flow: *const FlowCounters, toward: Toward, up: bool) -> bool {
    let other = match toward {
        Toward::Both => return false,
        Toward::Server if up => side::TURNED,
        Toward::Client if !up => side::TURNED,
        _ => side::STRAIGHT,
    };
    // SAFETY: an element of a preallocated map.
    unsafe { (*flow).facts.looked & other != 0 }
}
