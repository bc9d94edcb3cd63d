//! Log messages about packets that are not counted to a flow, if the agent asks for them (`--kernel-log`).
//!
//! Otherwise `AYA_LOG_LEVEL` is a zero that the verifier knows, and it removes every call.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_log_ebpf::{error, info, macro_support::AYA_LOG_LEVEL, warn};
use mailflow_common::Reason;

use crate::maps;

/// Kind: a packet whose flow has no entry. The kinds below it are the reasons.
pub(super) const OVERFLOW: u32 = 16;
/// Kind: a packet whose source has no entry either.
pub(super) const UNATTRIBUTED: u32 = 17;
/// Messages of one kind that each CPU may log in a second, so that a flood of damaged frames is no flood of
/// messages.
const MAX_PER_SECOND: u32 = 8;
const SECOND: u64 = 1_000_000_000;

/// Logs why a buffer was not counted. `length` is called only if a message is logged.
#[inline(always)]
pub(super) fn log_uncounted(reason: Reason, length: impl FnOnce() -> u32) {
    if reason.is_loss() {
        log_event(reason as u32, length());
    }
}

/// Logs that a packet was not counted to its flow.
#[inline(always)]
pub(super) fn log_event(kind: u32, length: u32) {
    if AYA_LOG_LEVEL.load() != 0 {
        emit(kind, length);
    }
}

/// A separate function: the stacks of the entry points are full.
#[inline(never)]
fn emit(kind: u32, length: u32) -> u32 {
    let Some(log_budget) = maps::log_budget(kind) else { return 0 };
    // SAFETY: the helper takes nothing; this CPU's own element.
    unsafe {
        let now = bpf_ktime_get_ns();
        if now.wrapping_sub((*log_budget).since) >= SECOND {
            (*log_budget).since = now;
            (*log_budget).count = 0;
        }
        (*log_budget).count += 1;
        if (*log_budget).count > u64::from(MAX_PER_SECOND) {
            return 0;
        }
    }
    const MALFORMED: u32 = Reason::Malformed as u32;
    const TRUNCATED: u32 = Reason::Truncated as u32;
    const FORGED: u32 = Reason::ForgedLength as u32;
    const TOO_DEEP: u32 = Reason::TooDeep as u32;
    const MPLS: u32 = Reason::Mpls as u32;
    const TUNNEL: u32 = Reason::Tunnel as u32;
    const FRAGMENT: u32 = Reason::Fragment as u32;
    const LINK_TUNNEL: u32 = Reason::LinkTunnel as u32;
    match kind {
        MALFORMED => warn!((), "malformed: {} bytes", length),
        TRUNCATED => warn!((), "truncated: {} bytes", length),
        FORGED => warn!((), "forged_length: {} bytes", length),
        TOO_DEEP => info!((), "too_deep: {} bytes", length),
        MPLS => info!((), "mpls: {} bytes", length),
        TUNNEL => info!((), "tunnel: {} bytes", length),
        FRAGMENT => info!((), "fragment: {} bytes", length),
        LINK_TUNNEL => info!((), "link_tunnel: {} bytes", length),
        OVERFLOW => warn!((), "overflow: {} bytes", length),
        UNATTRIBUTED => error!((), "unattributed: {} bytes", length),
        _ => {}
    }
    0
}
