//! VLAN zones of flows whose tags may be visible in one direction only.

use mailflow_common::{FlowKey, Scope};

use super::{definitions::VLAN_ZONES, scratch::Scratch};

/// 1: a flow has begun in a VLAN.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.tagged")]
static mut TAGGED: u64 = 0;

/// Records the VLAN zone of a new flow, if it has one.
#[inline(always)]
pub(crate) unsafe fn record(scratch: *mut Scratch) {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        if (*scratch).key.scope.tagged() {
            insert(scratch);
        }
    }
}

#[inline(never)]
unsafe fn insert(scratch: *mut Scratch) {
    // SAFETY: the caller's; an aligned word that only ever becomes 1.
    unsafe {
        (&raw mut TAGGED).write_volatile(1);
        (*scratch).second_key = (*scratch).key;
        (*scratch).second_key.scope = (*scratch).key.scope.untagged();
        // A table that is full drops its oldest.
        let _ = VLAN_ZONES.insert(&(*scratch).second_key, &(*scratch).key.scope, 0);
    }
}

/// Returns the other zone in which a packet's flow may be: without VLAN, or the zone in which a flow with the
/// same or the reversed key began.
#[inline(always)]
pub(crate) fn lookup(key: &FlowKey, turned: &FlowKey) -> Option<Scope> {
    if key.scope.tagged() {
        return Some(key.scope.untagged());
    }
    // SAFETY: as above.
    if unsafe { (&raw const TAGGED).read_volatile() } == 0 {
        return None;
    }
    let found = match VLAN_ZONES.get_ptr(key) {
        None => VLAN_ZONES.get_ptr(turned),
        found => found,
    };
    // SAFETY: an element of the map; at worst another flow's, whose zone is none of this one's either.
    found.map(|zone| unsafe { *zone })
}
