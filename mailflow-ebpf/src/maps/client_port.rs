//! Flows from a watched port: as rare as they are, most SYNs need not look for one that goes the other way.

use mailflow_common::FlowKey;

use super::settings::{idle_timeouts, now, watched};

/// When a flow last began host_filter client's port is watched, in ticks; 0: none has since the program was loaded.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.client_port")]
static mut CLIENT_PORT: u64 = 0;

/// Notes a flow that begins, if its client's port is watched.
#[inline(always)]
pub(crate) fn record(key: &FlowKey, now: u64) {
    if watched(key.client_port) {
        // SAFETY: an aligned word that is only ever written whole.
        unsafe { (&raw mut CLIENT_PORT).write_volatile(now) }
    }
}

/// Returns true if a flow that is `key` with its ends exchanged may have begun so late that it still waits for its
/// first answer. Such a flow's client has the port that `key` has as its server's.
#[inline(always)]
pub(crate) fn may_be_reversed(key: &FlowKey) -> bool {
    // SAFETY: aligned words that are only ever written whole.
    unsafe {
        let begun = (&raw const CLIENT_PORT).read_volatile();
        let waits = (&raw const (*idle_timeouts()).unanswered).read_volatile();
        !watched(key.server_port) || begun != 0 && now().wrapping_sub(begun) as i64 <= i64::from(waits)
    }
}
