//! Insertion of new flows.

use mailflow_common::{FlowCounters, FlowKey, hook_orientation, seen};
use mailflow_ebpf::{Link, Tcp};

use super::{classify, context::Packet, hook::Direction};
use crate::maps::{
    self, Options, PacketSum, Scratch, client_port,
    flow_table::{self, InsertedBy},
    vlan_zones,
};

/// Inserts a flow with its first SYN counted. Returns false if there is one already, or no room.
#[inline(always)]
pub(super) unsafe fn insert_syn_flow<P: Packet>(
    packet: &P,
    link: Link,
    scratch: *mut Scratch,
    direction: Direction,
    tcp: Tcp,
    sum: &PacketSum,
    now: u64,
) -> bool {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        let key = &(*scratch).key;
        let new = &raw mut (*scratch).entry.counters;
        zero(new);
        (*new).up.bare_packets = sum.packets;
        (*new).up.bare_bytes = sum.bytes;
        (*new).up.last = now as u32;
        (*new).first = now;
        (*new).isn_up = tcp.sequence;
        (*new).facts.syn = 1;
        (*new).facts.seen = if Options::join(scratch) { seen::UP | seen::MPTCP_JOIN } else { seen::UP };
        (*new).facts.inspected = hook_orientation(direction, key, true);
        record_origin(packet, link, new, true);
        if !flow_table::insert(scratch, key, InsertedBy::Client) {
            return false;
        }
        vlan_zones::record(scratch);
        client_port::record(key, now);
        true
    }
}

/// Inserts a flow without counts, unless there is one already or no room.
#[inline(always)]
pub(super) unsafe fn insert_flow<P: Packet>(
    packet: &P,
    link: Link,
    scratch: *mut Scratch,
    direction: Direction,
    up: bool,
    now: u64,
) {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        let (key, reset) = (&(*scratch).key, (*scratch).segment.tcp.reset());
        let new = &raw mut (*scratch).entry.counters;
        zero(new);
        (*new).first = now;
        record_origin(packet, link, new, up);
        (*new).facts.inspected = hook_orientation(direction, key, up);
        vlan_zones::record(scratch);
        client_port::record(key, now);
        flow_table::insert(scratch, key, if up || reset { InsertedBy::Client } else { InsertedBy::Server });
        // For `flow_table::found`.
        flow_table::lookup(scratch);
    }
}

/// Returns which hook counts which direction of the flow that begins at this hook.
#[inline(always)]
pub(super) fn hook_orientation(direction: Direction, key: &FlowKey, up: bool) -> u8 {
    let both = maps::watched(key.client_port) && maps::watched(key.server_port);
    match direction {
        Direction::Both => 0,
        _ if !both => 0,
        _ if up == (direction == Direction::ToServer) => hook_orientation::NORMAL,
        _ => hook_orientation::SWAPPED,
    }
}

/// Records the interface of the flow's first packet, and the client's MAC address if there is one.
#[inline(always)]
pub(super) unsafe fn record_origin<P: Packet>(packet: &P, link: Link, flow: *mut FlowCounters, up: bool) {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        (*flow).interface = packet.interface();
        if let Link::Ethernet = link {
            (*flow).mac = classify::client_mac(packet, up);
        }
    }
}

/// Writes zeros word by word: LLVM's `memset` would store bytes.
#[inline(always)]
unsafe fn zero(counters: *mut FlowCounters) {
    const WORDS: usize = size_of::<FlowCounters>() / size_of::<u64>();
    let mut word = 0;
    while word < WORDS {
        // SAFETY: the caller's: within the counters, which are whole, aligned words.
        unsafe { counters.cast::<u64>().add(word).write_volatile(0) };
        word += 1;
    }
}
