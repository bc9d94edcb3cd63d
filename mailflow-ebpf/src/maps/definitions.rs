//! The maps: all state that outlives a packet, and that the agent reads.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use mailflow_common::{
    ALL_CELLS, FlowCounters, FlowKey, FragmentKey, FragmentOwner, RetiredKey, Scope, Set, SpillCounters,
    SpillKey, Totals,
};

use super::scratch::{KINDS, LogBudget, Scratch};

/// Live flows, where this kernel has what it takes. The agent sets how many sets there are, and maps them into its
/// memory (`BPF_F_MMAPABLE`, Linux 5.5).
#[aya_ebpf::macros::btf_map]
pub(crate) static SETS: Array<Set, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// A word for each group of sets: 1 where a flow was inserted since the agent last cleared it. The agent sets how many
/// there are, and maps them into its memory.
#[aya_ebpf::macros::btf_map]
pub(crate) static INSERTED: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Live flows beside them, by their whole key. Preallocated and shared; the agent sets its size before it loads.
#[aya_ebpf::macros::btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowCounters, 262_144> = HashMap::new();

/// Finished flows host_filter tuple is used again, until the agent has read them.
#[aya_ebpf::macros::btf_map]
pub(crate) static RETIRED: HashMap<RetiredKey, FlowCounters, 65_536> = HashMap::new();

/// By source, the packets of flows that have no place among the live ones. The agent sets its size.
#[aya_ebpf::macros::btf_map]
pub(crate) static OVERFLOW: HashMap<SpillKey, SpillCounters, 65_536> = HashMap::new();

/// How many of the live flows each source holds: two rows of cells, see [`Sharing::cells`], and the hash keys.
#[aya_ebpf::macros::btf_map]
pub(crate) static SHARES: Array<u64, { ALL_CELLS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Packets that come in fragments. What is lost here is lost to the flow and counted by reason, so the
/// oldest may go.
#[aya_ebpf::macros::btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentOwner, 8_192> = LruHashMap::new();

/// By a flow's key without tags, the zone in which it began. What is lost here splits a flow host_filter tags are
/// visible in one direction only, so the oldest may go.
#[aya_ebpf::macros::btf_map]
pub(crate) static ZONES: LruHashMap<FlowKey, Scope, 16_384> = LruHashMap::new();

/// Numbers of the interfaces in the `lan` role: what comes in there is counted there. The agent writes them, while
/// packets pass.
#[aya_ebpf::macros::btf_map]
pub(crate) static LANS: HashMap<u32, u32, 4_096> = HashMap::new();

/// Totals of each CPU.
#[aya_ebpf::macros::btf_map]
pub(crate) static TOTALS: PerCpuArray<Totals, 1> = PerCpuArray::new();

/// Each CPU's scratch.
#[aya_ebpf::macros::btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What each CPU has log_budget of late.
#[aya_ebpf::macros::btf_map]
pub(crate) static REPORTED: PerCpuArray<LogBudget, { KINDS }> = PerCpuArray::new();

/// Whether what came in by this interface was counted there.
#[inline(always)]
pub(crate) fn is_lan_interface(interface: u32) -> bool {
    LANS.get_ptr(&interface).is_some()
}

/// This CPU's totals.
#[inline(always)]
pub(crate) fn totals() -> Option<*mut Totals> {
    TOTALS.get_ptr_mut(0)
}

/// What this CPU has log_budget of a kind.
#[inline(always)]
pub(crate) fn log_budget(kind: u32) -> Option<*mut LogBudget> {
    REPORTED.get_ptr_mut(kind)
}

/// This CPU's scratch, as its last use left it.
#[inline(always)]
pub(crate) fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}
