//! Time of the last flow whose client port is watched. Such flows are rare, so most SYNs need no lookup of
//! the reversed key.

use mailflow_common::FlowKey;

use super::settings::{idle_timeouts, now, watched};

/// Start of the last flow whose client port is watched, in ticks; 0: none since the program was loaded.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.client_port")]
static mut CLIENT_PORT: u64 = 0;

/// Records a new flow, if its client port is watched.
#[inline(always)]
pub(crate) fn record(key: &FlowKey, now: u64) {
    if watched(key.client_port) {
        // SAFETY: an aligned word that is only ever written whole.
        unsafe { (&raw mut CLIENT_PORT).write_volatile(now) }
    }
}

/// Returns true if a flow with the reversed key may still be waiting for its first answer. The client port of
/// such a flow is the server port of `key`.
#[inline(always)]
pub(crate) fn may_be_reversed(key: &FlowKey) -> bool {
    // SAFETY: aligned words that are only ever written whole.
    unsafe {
        let begun = (&raw const CLIENT_PORT).read_volatile();
        let waits = (&raw const (*idle_timeouts()).unanswered).read_volatile();
        !watched(key.server_port) || begun != 0 && now().wrapping_sub(begun) as i64 <= i64::from(waits)
    }
}
