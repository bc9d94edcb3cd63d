//! Settings that the agent writes, and the clock.

use core::arch::asm;

use aya_ebpf::Global;
use mailflow_common::{EntryCounts, IdleTimeoutTicks, PORT_WORDS, SourceLimit};

/// Watched ports, one bit each. The agent writes them while packets pass.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.ports")]
static mut PORTS: [u64; PORT_WORDS] = [0; PORT_WORDS];

/// Idle timeouts, after which a packet begins a new flow. The agent writes them.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.idle_timeouts")]
static mut IDLE_TIMEOUTS: IdleTimeoutTicks = IdleTimeoutTicks::NEVER;

/// Limit of flows for each source, and hash keys. The agent writes it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.source_limit")]
static mut SOURCE_LIMIT: SourceLimit = SourceLimit::NONE;

/// Number of entries from which on packets of clients insert no more. The agent writes it at each poll.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.entry_limits")]
static mut ENTRY_LIMITS: EntryCounts = EntryCounts::UNLIMITED;

/// Number of entries inserted since the program was loaded: flows, and sources in the overflow map. All CPUs
/// add to it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.entries_inserted")]
static mut ENTRIES_INSERTED: EntryCounts = EntryCounts { flows: 0, sources: 0 };

/// Always zero, which the verifier cannot know.
#[unsafe(no_mangle)]
static mut ZERO: u64 = 0;

/// Clock of the program. 0: the kernel's jiffies; 1: `NOW` (replay).
#[unsafe(no_mangle)]
static CLOCK: Global<u32> = Global::new(0);

/// Time of a replay, in ticks, set before each frame. Live, what the program `ticks` has published.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.now")]
static mut NOW: u64 = 0;

/// Length on the wire of a truncated frame of a replay; 0 otherwise.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.length")]
static mut LENGTH: u64 = 0;

/// Number of buckets; 0 before Linux 5.12.
#[unsafe(no_mangle)]
static BUCKET_COUNT: Global<u32> = Global::new(0);

/// 1: interfaces in the `host` role count only the traffic of this machine, as `lan` interfaces count the
/// rest.
#[unsafe(no_mangle)]
static LOCAL_ONLY: Global<u32> = Global::new(0);

/// Returns the current time, in ticks.
#[inline(always)]
pub(crate) fn now() -> u64 {
    if CLOCK.load() == 1 {
        // SAFETY: an aligned word that is only ever written whole.
        unsafe { core::ptr::read_volatile(&raw const NOW) }
    } else {
        // SAFETY: the helper takes nothing and reads a global.
        unsafe { aya_ebpf::helpers::bpf_jiffies64() }
    }
}

/// Returns the original length of a truncated frame of a replay; 0 otherwise.
#[inline(always)]
pub(crate) fn capture_frame_length() -> u32 {
    if CLOCK.load() == 1 {
        // SAFETY: an aligned word that is only ever written whole.
        unsafe { core::ptr::read_volatile(&raw const LENGTH) as u32 }
    } else {
        0
    }
}

/// Publishes the kernel's jiffies to the agent.
#[inline(always)]
pub(crate) fn publish_ticks() {
    // SAFETY: the helper takes nothing; the word is aligned and written whole.
    unsafe { core::ptr::write_volatile(&raw mut NOW, aya_ebpf::helpers::bpf_jiffies64()) };
}

#[inline(always)]
pub(crate) fn watched(port: u16) -> bool {
    let mut word = usize::from(port >> 6);
    // As an instruction of our own, which LLVM may not take apart: the verifier goes by it.
    // SAFETY: one instruction on a register.
    unsafe {
        asm!("{w} &= {m}", w = inout(reg) word, m = const PORT_WORDS - 1, options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: in bounds by the mask; an aligned word that is only ever written whole.
    let bits = unsafe { core::ptr::read_volatile((&raw const PORTS).cast::<u64>().add(word)) };
    bits >> (port & 63) & 1 == 1
}

#[inline(always)]
pub(crate) fn idle_timeouts() -> *const IdleTimeoutTicks {
    &raw const IDLE_TIMEOUTS
}

#[inline(always)]
pub(crate) fn source_limit() -> *const SourceLimit {
    &raw const SOURCE_LIMIT
}

#[inline(always)]
pub(super) fn entry_limits() -> *const EntryCounts {
    &raw const ENTRY_LIMITS
}

#[inline(always)]
pub(super) fn entries_inserted() -> *mut EntryCounts {
    &raw mut ENTRIES_INSERTED
}

#[inline(always)]
pub(crate) fn count_local_only() -> bool {
    LOCAL_ONLY.load() == 1
}

#[inline(always)]
pub(crate) fn opaque(value: usize, mask: usize) -> usize {
    // SAFETY: an aligned word that is never written.
    let zero = unsafe { core::ptr::read_volatile(&raw const ZERO) };
    value.wrapping_add(zero as usize) & mask
}

/// Returns the number of buckets.
#[inline(always)]
pub(super) fn bucket_count() -> u32 {
    BUCKET_COUNT.load()
}
