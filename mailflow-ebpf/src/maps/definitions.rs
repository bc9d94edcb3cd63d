//! The BPF maps: all state that outlives a packet. The agent reads them.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use mailflow_common::{
    Bucket, FlowCounters, FlowKey, FragmentKey, FragmentOwner, SKETCH_CELLS, Scope, SourceOverflowCounters,
    SourceOverflowKey, SupersededKey, Totals,
};

use super::scratch::{KINDS, LogBudget, Scratch};

/// Flow table: buckets of live flows, on kernels with BPF_CMPXCHG. The agent sets the number of buckets, and
/// maps them into its memory (`BPF_F_MMAPABLE`, Linux 5.5).
#[aya_ebpf::macros::btf_map]
pub(crate) static BUCKETS: Array<Bucket, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// One word for each group of buckets: 1 if a flow was inserted since the agent last cleared the word. The
/// agent sets their number, and maps them into its memory.
#[aya_ebpf::macros::btf_map]
pub(crate) static BUCKET_INSERTIONS: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Fallback map: live flows whose bucket is full, by their full key. Preallocated. The agent sets its size
/// before it loads the program.
#[aya_ebpf::macros::btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowCounters, 262_144> = HashMap::new();

/// Flows whose 5-tuple a new flow has taken over, until the agent has read them.
#[aya_ebpf::macros::btf_map]
pub(crate) static SUPERSEDED: HashMap<SupersededKey, FlowCounters, 65_536> = HashMap::new();

/// Overflow counters by source, for packets of flows that have no entry in the flow table. The agent sets its
/// size.
#[aya_ebpf::macros::btf_map]
pub(crate) static OVERFLOW: HashMap<SourceOverflowKey, SourceOverflowCounters, 65_536> = HashMap::new();

/// Number of live flows by source: a sketch of two rows ([`SourceLimit::cells`]), and the hash keys behind it.
#[aya_ebpf::macros::btf_map]
pub(crate) static SOURCE_SKETCH: Array<u64, { SKETCH_CELLS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Owner of each fragmented packet. An LRU map: the fragments of an evicted entry are counted by reason
/// instead of to their flow.
#[aya_ebpf::macros::btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentOwner, 8_192> = LruHashMap::new();

/// VLAN zone in which a flow began, by its key without tags. An LRU map: without its entry, a flow whose tags
/// are visible in one direction only becomes two.
#[aya_ebpf::macros::btf_map]
pub(crate) static VLAN_ZONES: LruHashMap<FlowKey, Scope, 16_384> = LruHashMap::new();

/// Interface indexes in the `lan` role, whose ingress hook counts what they receive. The agent writes it
/// while packets pass.
#[aya_ebpf::macros::btf_map]
pub(crate) static LAN_INTERFACES: HashMap<u32, u32, 4_096> = HashMap::new();

/// Totals of each CPU.
#[aya_ebpf::macros::btf_map]
pub(crate) static TOTALS: PerCpuArray<Totals, 1> = PerCpuArray::new();

/// Scratch memory of each CPU.
#[aya_ebpf::macros::btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Log budget of each CPU, by kind of message.
#[aya_ebpf::macros::btf_map]
pub(crate) static LOG_BUDGETS: PerCpuArray<LogBudget, { KINDS }> = PerCpuArray::new();

/// Returns true if the interface is in the `lan` role.
#[inline(always)]
pub(crate) fn is_lan_interface(interface: u32) -> bool {
    LAN_INTERFACES.get_ptr(&interface).is_some()
}

/// Returns the totals of this CPU.
#[inline(always)]
pub(crate) fn totals() -> Option<*mut Totals> {
    TOTALS.get_ptr_mut(0)
}

/// Returns the log budget of this CPU for a kind of message.
#[inline(always)]
pub(crate) fn log_budget(kind: u32) -> Option<*mut LogBudget> {
    LOG_BUDGETS.get_ptr_mut(kind)
}

/// Returns the scratch memory of this CPU, with what the previous packet left there.
#[inline(always)]
pub(crate) fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}
