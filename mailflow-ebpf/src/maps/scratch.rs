//! Scratch memory of each CPU. Plain data: the BPF stack has 512 bytes only.

use mailflow_common::{
    DirectionTotals, FlowKey, FlowTableKey, FragmentKey, FragmentOwner, MapEntry, SourceOverflowCounters,
    SourceOverflowKey, SupersededKey,
};
use mailflow_ebpf::{ParsedHeaders, Segment};

/// Values of the current packet, and keys and values for map operations. The verifier does not track what is
/// stored here.
#[repr(C)]
pub(crate) struct Scratch {
    /// Headers of the packet.
    pub(crate) parsed: ParsedHeaders,
    pub(crate) segment: Segment,
    /// Counts that the packet adds.
    pub(crate) sum: PacketSum,
    /// 1: client to server.
    pub(crate) up: u32,
    /// Key of the flow.
    pub(crate) key: FlowKey,
    /// Second key, for lookups.
    pub(crate) second_key: FlowKey,
    /// Key to look up, the cached result, and the entry to insert.
    pub(crate) table_key: FlowTableKey,
    pub(crate) cached: CachedLookup,
    pub(crate) entry: MapEntry,
    /// Full key, for `FLOWS`.
    pub(crate) full_key: FlowKey,
    pub(crate) superseded_key: SupersededKey,
    pub(crate) overflow: OverflowPacket,
    /// Zeros, to insert.
    pub(crate) zeros: SourceOverflowCounters,
    /// TCP options of a SYN.
    pub(crate) options: Options,
    pub(crate) fragment: FragmentKey,
    pub(crate) owner: FragmentOwner,
}

/// Counts that one buffer, or several fragments, add.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PacketSum {
    pub(crate) buffers: u32,
    pub(crate) packets: u32,
    pub(crate) payload: u32,
    pub(crate) bytes: u64,
}

impl PacketSum {
    /// Adds to totals, which must be this CPU's own.
    #[inline(always)]
    pub(crate) unsafe fn add_to(&self, total: *mut DirectionTotals) {
        // SAFETY: the caller's.
        unsafe {
            (*total).buffers += u64::from(self.buffers);
            (*total).packets += u64::from(self.packets);
            (*total).bytes += self.bytes;
        }
    }
}

/// Packet to count to its source.
#[repr(C)]
pub(crate) struct OverflowPacket {
    pub(crate) key: SourceOverflowKey,
    /// 1: client to server.
    pub(crate) up: u32,
    /// 1: a SYN, or a SYN-ACK.
    pub(crate) opens: u32,
}

/// TCP options of a SYN.
#[repr(C)]
pub(crate) struct Options {
    /// A power of two above the longest options, so that a mask bounds every index.
    pub(crate) bytes: [u8; 64],
    /// 1: MP_JOIN is among them.
    pub(crate) join: u32,
}

impl Options {
    /// Clears the result.
    #[inline(always)]
    pub(crate) unsafe fn clear(scratch: *mut Scratch) {
        // SAFETY: the caller's: this CPU's own element.
        unsafe { (&raw mut (*scratch).options.join).write_volatile(0) }
    }

    /// Returns true if MP_JOIN is among them.
    #[inline(always)]
    pub(crate) unsafe fn join(scratch: *const Scratch) -> bool {
        // SAFETY: the caller's: this CPU's own element.
        unsafe { (&raw const (*scratch).options.join).read_volatile() == 1 }
    }
}

/// Cached result of the last lookup.
#[repr(C)]
pub(crate) struct CachedLookup {
    /// 0: not found.
    pub(crate) is: u32,
    pub(crate) set: u32,
    /// [`BUCKET_SLOTS`](mailflow_common::BUCKET_SLOTS): in the fallback map.
    pub(crate) way: u32,
}

/// Number of kinds of log messages.
pub(crate) const KINDS: usize = 18;

/// Messages of one kind that this CPU has logged within the current second.
#[repr(C)]
pub(crate) struct LogBudget {
    /// Start of that second, on the monotonic clock.
    pub(crate) since: u64,
    pub(crate) count: u64,
}
