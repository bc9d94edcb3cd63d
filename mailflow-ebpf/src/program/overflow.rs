//! Counts packets of flows without an entry: to their source or, if there is no room for that either, to one
//! counter for all sources.

use mailflow_common::{FlowKey, SourceOverflowKey};
use mailflow_ebpf::Tcp;

use super::{
    counters::{add_to_direction, add_to_totals},
    log,
};
use crate::maps::{
    self, OverflowPacket, PacketSum, Scratch, add32,
    flow_table::{self, InsertedBy},
};

/// Counts a packet of the flow `key` to its source.
#[inline(always)]
pub(super) unsafe fn count_packet(key: &FlowKey, up: bool, tcp: Tcp, sum: PacketSum) {
    let Some(scratch) = maps::scratch() else { return };
    // SAFETY: this CPU's own element; the rest is the caller's.
    unsafe {
        (*scratch).sum = sum;
        prepare(scratch, key, up, tcp.syn() || tcp.syn_ack());
        count(scratch);
    }
}

/// Counts the fragments that the scratch memory holds to the source of the flow `key`.
#[inline(always)]
pub(super) unsafe fn count_fragments(scratch: *mut Scratch, key: &FlowKey, up: bool) {
    // SAFETY: the caller's.
    unsafe {
        prepare(scratch, key, up, false);
        count(scratch);
    }
}

#[inline(always)]
unsafe fn prepare(scratch: *mut Scratch, key: &FlowKey, up: bool, opens: bool) {
    // SAFETY: the caller's: this CPU's own element; the source_limit are words that are written whole.
    unsafe {
        let source = (*maps::source_limit()).source(&key.client);
        let protocol = u16::from(key.scope.protocol());
        (*scratch).overflow = OverflowPacket {
            key: SourceOverflowKey { source, server_port: key.server_port, protocol },
            up: u32::from(up),
            opens: u32::from(opens),
        };
    }
}

#[inline(never)]
unsafe fn count(scratch: *const Scratch) {
    // SAFETY: the caller's: this CPU's own elements. A source is an element of a preallocated map.
    unsafe {
        let spill = &raw const (*scratch).overflow;
        let sum = &(*scratch).sum;
        let up = (*spill).up == 1;
        log::log_event(log::OVERFLOW, sum.bytes as u32);
        let inserted_by = if up { InsertedBy::Client } else { InsertedBy::Server };
        match flow_table::overflow_entry(&(*spill).key, &(*scratch).zeros, inserted_by) {
            Some(source) => {
                add_to_direction(
                    if up { &raw mut (*source).up } else { &raw mut (*source).down },
                    sum,
                    maps::now(),
                );
                if (*spill).opens == 1 {
                    add32(if up { &raw mut (*source).syns } else { &raw mut (*source).syn_acks }, 1);
                }
            }
            None => {
                log::log_event(log::UNATTRIBUTED, sum.bytes as u32);
                let Some(totals) = maps::totals() else { return };
                sum.add_to(match up {
                    true => &raw mut (*totals).unattributed_up,
                    false => &raw mut (*totals).unattributed_down,
                });
            }
        }
        add_to_totals(up, sum);
    }
}
