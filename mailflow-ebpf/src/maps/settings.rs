//! Settings that the agent writes, and clocks.

use core::arch::asm;

use aya_ebpf::Global;
use mailflow_common::{PORT_WORDS, Room, Sharing, Silences};

/// The watched ports, a bit each. The agent writes them, while packets pass.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.ports")]
static mut PORTS: [u64; PORT_WORDS] = [0; PORT_WORDS];

/// How long a tuple is silent before a new flow begins. The agent writes it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.idle_timeouts")]
static mut SILENCES: Silences = Silences::NEVER;

/// How much of the flow table a source may hold. The agent writes it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.source_limit")]
static mut SHARING: Sharing = Sharing::NONE;

/// Until when clients alone make entries. The agent writes it, at each reading.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.room")]
static mut ROOM: Room = Room::ENDLESS;

/// Entries made since the program was loaded: flows, and sources in the overflow table. Every CPU adds to them.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.made")]
static mut MADE: Room = Room { flows: 0, sources: 0 };

/// Always zero, which the verifier cannot know.
#[unsafe(no_mangle)]
static mut ZERO: u64 = 0;

/// 0: the kernel's jiffies are the clock; 1: `NOW` is (replay).
#[unsafe(no_mangle)]
static CLOCK: Global<u32> = Global::new(0);

/// The clock of a replay, in ticks, set before each frame; otherwise what `ticks` noted.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.now")]
static mut NOW: u64 = 0;

/// Length on the wire of a frame of which a replay shows only the head; 0 otherwise.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.length")]
static mut LENGTH: u64 = 0;

/// How many sets of flows there are; none before Linux 5.12.
#[unsafe(no_mangle)]
static SET_COUNT: Global<u32> = Global::new(0);

/// 1: interfaces in the `host` role stand beside `lan` ones and count only the machine's own.
#[unsafe(no_mangle)]
static LOCAL_ONLY: Global<u32> = Global::new(0);

/// What the program calls now, in ticks.
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

/// The frame's length where a replay says it, otherwise 0.
#[inline(always)]
pub(crate) fn capture_frame_length() -> u32 {
    if CLOCK.load() == 1 {
        // SAFETY: an aligned word that is only ever written whole.
        unsafe { core::ptr::read_volatile(&raw const LENGTH) as u32 }
    } else {
        0
    }
}

/// Lets the agent see the kernel's jiffies.
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
pub(crate) fn idle_timeouts() -> *const Silences {
    &raw const SILENCES
}

#[inline(always)]
pub(crate) fn source_limit() -> *const Sharing {
    &raw const SHARING
}

#[inline(always)]
pub(super) fn room() -> *const Room {
    &raw const ROOM
}

#[inline(always)]
pub(super) fn made() -> *mut Room {
    &raw mut MADE
}

#[inline(always)]
pub(crate) fn count_local_only() -> bool {
    LOCAL_ONLY.load() == 1
}

#[inline(always)]
pub(crate) fn opaque(value: usize, mask: usize) -> usize {
    // SAFETY: an aligned word that nobody writes.
    let zero = unsafe { core::ptr::read_volatile(&raw const ZERO) };
    value.wrapping_add(zero as usize) & mask
}

/// How many sets of flows there are.
#[inline(always)]
pub(super) fn set_count() -> u32 {
    SET_COUNT.load()
}
