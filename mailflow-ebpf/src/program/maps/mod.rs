//! Maps and settings: all state that outlives a packet.

mod sets;
pub(super) mod table;

use core::arch::asm;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use mailflow_common::{
    ALL_CELLS, Entry, FlowCounters, FlowKey, FragmentKey, FragmentOwner, PORT_WORDS, Place, RetiredKey, Room,
    Scope, Set, Sharing, Silences, SpillCounters, SpillKey, Totals,
};
use mailflow_ebpf::{Located, Segment};

use self::table::Found;
use super::{
    multipath::Options,
    report::{KINDS, Reported},
    spill::Spill,
    tally::Sum,
};

/// Live flows, where this kernel has what it takes. The agent sets how many sets there are, and maps them into its
/// memory (`BPF_F_MMAPABLE`, Linux 5.5).
#[aya_ebpf::macros::btf_map]
static SETS: Array<Set, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// A word for each group of sets: 1 where a flow was inserted since the agent last cleared it. The agent sets how many
/// there are, and maps them into its memory.
#[aya_ebpf::macros::btf_map]
static INSERTED: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Live flows beside them, by their whole key. Preallocated and shared; the agent sets its size before it loads.
#[aya_ebpf::macros::btf_map]
static FLOWS: HashMap<FlowKey, FlowCounters, 262_144> = HashMap::new();

/// Finished flows whose tuple is used again, until the agent has read them.
#[aya_ebpf::macros::btf_map]
static RETIRED: HashMap<RetiredKey, FlowCounters, 65_536> = HashMap::new();

/// By source, the packets of flows that have no place among the live ones. The agent sets its size.
#[aya_ebpf::macros::btf_map]
static OVERFLOW: HashMap<SpillKey, SpillCounters, 65_536> = HashMap::new();

/// How many of the live flows each source holds: two rows of cells, see [`Sharing::cells`], and the hash keys.
#[aya_ebpf::macros::btf_map]
static SHARES: Array<u64, { ALL_CELLS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Packets that come in fragments. What is lost here is lost to the flow and counted by reason, so the
/// oldest may go.
#[aya_ebpf::macros::btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentOwner, 8_192> = LruHashMap::new();

/// By a flow's key without tags, the zone in which it began. What is lost here splits a flow whose tags are
/// visible in one direction only, so the oldest may go.
#[aya_ebpf::macros::btf_map]
static ZONES: LruHashMap<FlowKey, Scope, 16_384> = LruHashMap::new();

/// Numbers of the interfaces in the `lan` role: what comes in there is counted there. The agent writes them, while
/// packets pass.
#[aya_ebpf::macros::btf_map]
static LANS: HashMap<u32, u32, 4_096> = HashMap::new();

/// Totals of each CPU.
#[aya_ebpf::macros::btf_map]
static TOTALS: PerCpuArray<Totals, 1> = PerCpuArray::new();

/// What is prepared for a map: the stack of 512 bytes has no room for it, and what lies there the verifier
/// holds apart.
#[repr(C)]
pub(super) struct Scratch {
    /// What is known of the packet.
    pub(super) located: Located,
    pub(super) segment: Segment,
    /// What it adds.
    pub(super) sum: Sum,
    /// 1: it goes up.
    pub(super) up: u32,
    /// The packet's flow.
    pub(super) key: FlowKey,
    /// Another key that is looked for.
    pub(super) turned: FlowKey,
    /// Where `table` looks, what it found there, and what it puts there.
    pub(super) place: Place,
    pub(super) found: Found,
    pub(super) entry: Entry,
    /// The whole key of the flow that was turned to, where `FLOWS` is asked.
    pub(super) whole: FlowKey,
    pub(super) retired: RetiredKey,
    pub(super) spill: Spill,
    /// Nobody writes it.
    pub(super) nothing: SpillCounters,
    /// A SYN's options.
    pub(super) options: Options,
    pub(super) fragment: FragmentKey,
    pub(super) owner: FragmentOwner,
}

/// Each CPU's scratch.
#[aya_ebpf::macros::btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What each CPU has reported of late.
#[aya_ebpf::macros::btf_map]
static REPORTED: PerCpuArray<Reported, { KINDS }> = PerCpuArray::new();

/// The watched ports, a bit each. The agent writes them, while packets pass.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.ports")]
static mut PORTS: [u64; PORT_WORDS] = [0; PORT_WORDS];

/// How long a tuple is silent before a new flow begins. The agent writes it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.silences")]
static mut SILENCES: Silences = Silences::NEVER;

/// How much of the flow table a source may hold. The agent writes it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.sharing")]
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

/// Whether any flow has begun in a VLAN.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.tagged")]
static mut TAGGED: u64 = 0;

/// When a flow last began whose client's port is watched, in ticks; 0: none has since the program was loaded.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.client_port")]
static mut CLIENT_PORT: u64 = 0;

/// How many sets of flows there are; none before Linux 5.12.
#[unsafe(no_mangle)]
static SET_COUNT: Global<u32> = Global::new(0);

/// 1: interfaces in the `host` role stand beside `lan` ones and count only the machine's own.
#[unsafe(no_mangle)]
static LOCAL_ONLY: Global<u32> = Global::new(0);

/// What the program calls now, in ticks.
#[inline(always)]
pub(super) fn now() -> u64 {
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
pub(super) fn told_length() -> u32 {
    if CLOCK.load() == 1 {
        // SAFETY: an aligned word that is only ever written whole.
        unsafe { core::ptr::read_volatile(&raw const LENGTH) as u32 }
    } else {
        0
    }
}

/// Lets the agent see the kernel's jiffies.
#[inline(always)]
pub(super) fn note_ticks() {
    // SAFETY: the helper takes nothing; the word is aligned and written whole.
    unsafe { core::ptr::write_volatile(&raw mut NOW, aya_ebpf::helpers::bpf_jiffies64()) };
}

#[inline(always)]
pub(super) fn watched(port: u16) -> bool {
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
pub(super) fn silences() -> *const Silences {
    &raw const SILENCES
}

#[inline(always)]
pub(super) fn sharing() -> *const Sharing {
    &raw const SHARING
}

#[inline(always)]
fn room() -> *const Room {
    &raw const ROOM
}

#[inline(always)]
fn made() -> *mut Room {
    &raw mut MADE
}

#[inline(always)]
pub(super) fn local_only() -> bool {
    LOCAL_ONLY.load() == 1
}

/// Whether what came in by this interface was counted there.
#[inline(always)]
pub(super) fn is_lan(interface: u32) -> bool {
    LANS.get_ptr(&interface).is_some()
}

#[inline(always)]
pub(super) fn forget(value: usize, mask: usize) -> usize {
    // SAFETY: an aligned word that nobody writes.
    let zero = unsafe { core::ptr::read_volatile(&raw const ZERO) };
    value.wrapping_add(zero as usize) & mask
}

/// This CPU's totals.
#[inline(always)]
pub(super) fn totals() -> Option<*mut Totals> {
    TOTALS.get_ptr_mut(0)
}

/// What this CPU has reported of a kind.
#[inline(always)]
pub(super) fn reported(kind: u32) -> Option<*mut Reported> {
    REPORTED.get_ptr_mut(kind)
}

/// This CPU's scratch, as its last use left it.
#[inline(always)]
pub(super) fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}

/// Flows from a watched port: as rare as they are, most SYNs need not look for one that goes the other way.
pub(super) mod client_port {
    use mailflow_common::FlowKey;

    use super::{CLIENT_PORT, now, silences, watched};

    /// Notes a flow that begins, if its client's port is watched.
    #[inline(always)]
    pub(in super::super) fn begun(key: &FlowKey, now: u64) {
        if watched(key.client_port) {
            // SAFETY: an aligned word that is only ever written whole.
            unsafe { (&raw mut CLIENT_PORT).write_volatile(now) }
        }
    }

    /// Returns true if a flow that is `key` with its ends exchanged may have begun so late that it still waits for its
    /// first answer. Such a flow's client has the port that `key` has as its server's.
    #[inline(always)]
    pub(in super::super) fn exchanged(key: &FlowKey) -> bool {
        // SAFETY: aligned words that are only ever written whole.
        unsafe {
            let begun = (&raw const CLIENT_PORT).read_volatile();
            let waits = (&raw const (*silences()).unanswered).read_volatile();
            !watched(key.server_port) || begun != 0 && now().wrapping_sub(begun) as i64 <= i64::from(waits)
        }
    }
}

/// VLAN zones of flows whose tags may be visible in one direction only.
pub(super) mod zones {
    use mailflow_common::{FlowKey, Scope};

    use super::{Scratch, TAGGED, ZONES};

    /// Notes the zone in which the flow of the scratch's key begins, if it is a VLAN's.
    #[inline(always)]
    pub(in super::super) unsafe fn begun(scratch: *mut Scratch) {
        // SAFETY: the caller's: this CPU's own element.
        unsafe {
            if (*scratch).key.scope.tagged() {
                note(scratch);
            }
        }
    }

    #[inline(never)]
    unsafe fn note(scratch: *mut Scratch) {
        // SAFETY: the caller's; an aligned word that only ever becomes 1.
        unsafe {
            (&raw mut TAGGED).write_volatile(1);
            (*scratch).turned = (*scratch).key;
            (*scratch).turned.scope = (*scratch).key.scope.untagged();
            // A table that is full drops its oldest.
            let _ = ZONES.insert(&(*scratch).turned, &(*scratch).key.scope, 0);
        }
    }

    /// Where the flow of a packet may be that has none in its own zone: outside of every VLAN, or in the one
    /// in which it began, either way round.
    #[inline(always)]
    pub(in super::super) fn other(key: &FlowKey, turned: &FlowKey) -> Option<Scope> {
        if key.scope.tagged() {
            return Some(key.scope.untagged());
        }
        // SAFETY: as above.
        if unsafe { (&raw const TAGGED).read_volatile() } == 0 {
            return None;
        }
        let found = match ZONES.get_ptr(key) {
            None => ZONES.get_ptr(turned),
            found => found,
        };
        // SAFETY: an element of the map; at worst another flow's, whose zone is none of this one's either.
        found.map(|zone| unsafe { *zone })
    }
}

/// Packets that come in fragments.
pub(super) mod fragments {
    use super::{FRAGMENTS, FragmentKey, FragmentOwner};

    #[inline(always)]
    pub(in super::super) fn find(key: &FragmentKey) -> Option<*mut FragmentOwner> {
        FRAGMENTS.get_ptr_mut(key)
    }

    #[inline(always)]
    pub(in super::super) fn note(key: &FragmentKey, owner: &FragmentOwner) {
        // A table that is full drops its oldest: an error leaves the fragments counted by reason.
        let _ = FRAGMENTS.insert(key, owner, 0);
    }
}
