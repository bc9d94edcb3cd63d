//! Where packets go whose flow has no place in the table: to their source, and if there is no room for
//! that either, to one counter for all of them.

use mailflow_common::{FlowKey, SpillKey};
use mailflow_ebpf::Tcp;

use super::{
    counters::{tally, total},
    log,
};
use crate::maps::{
    self, Scratch, Spill, Sum, add32,
    flow_table::{self, Maker},
};

/// Counts a packet of the flow `key` to its source.
#[inline(always)]
pub(super) unsafe fn packet(key: &FlowKey, up: bool, tcp: Tcp, sum: Sum) {
    let Some(scratch) = maps::scratch() else { return };
    // SAFETY: this CPU's own element; the rest is the caller's.
    unsafe {
        (*scratch).sum = sum;
        prepare(scratch, key, up, tcp.syn() || tcp.syn_ack());
        put(scratch);
    }
}

/// Counts fragments of the flow `key`, whose sum the scratch holds, to its source.
#[inline(always)]
pub(super) unsafe fn fragments(scratch: *mut Scratch, key: &FlowKey, up: bool) {
    // SAFETY: the caller's.
    unsafe {
        prepare(scratch, key, up, false);
        put(scratch);
    }
}

#[inline(always)]
unsafe fn prepare(scratch: *mut Scratch, key: &FlowKey, up: bool, opens: bool) {
    // SAFETY: the caller's: this CPU's own element; the sharing are words that are written whole.
    unsafe {
        let source = (*maps::sharing()).source(&key.client);
        let protocol = u16::from(key.scope.protocol());
        (*scratch).spill = Spill {
            key: SpillKey { source, server_port: key.server_port, protocol },
            up: u32::from(up),
            opens: u32::from(opens),
        };
    }
}

#[inline(never)]
unsafe fn put(scratch: *const Scratch) {
    // SAFETY: the caller's: this CPU's own elements. A source is an element of a preallocated map.
    unsafe {
        let spill = &raw const (*scratch).spill;
        let sum = &(*scratch).sum;
        let up = (*spill).up == 1;
        log::event(log::OVERFLOW, sum.bytes as u32);
        let maker = if up { Maker::Client } else { Maker::Server };
        match flow_table::spilled(&(*spill).key, &(*scratch).nothing, maker) {
            Some(source) => {
                tally(if up { &raw mut (*source).up } else { &raw mut (*source).down }, sum, maps::now());
                if (*spill).opens == 1 {
                    add32(if up { &raw mut (*source).syns } else { &raw mut (*source).syn_acks }, 1);
                }
            }
            None => {
                log::event(log::UNATTRIBUTED, sum.bytes as u32);
                let Some(totals) = maps::totals() else { return };
                sum.add_to(match up {
                    true => &raw mut (*totals).unattributed_up,
                    false => &raw mut (*totals).unattributed_down,
                });
            }
        }
        total(up, sum);
    }
}
