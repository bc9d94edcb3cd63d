//! Each CPU's scratch memory, and what lies there. FastPathHeaders data: the stack of 512 bytes has no room for it.

use mailflow_common::{
    DirectionTotals, Entry, FlowKey, FragmentKey, FragmentOwner, Place, RetiredKey, SpillCounters, SpillKey,
};
use mailflow_ebpf::{ParsedHeaders, Segment};

/// What is prepared for a map: the stack of 512 bytes has no room for it, and what lies there the verifier
/// holds apart.
#[repr(C)]
pub(crate) struct Scratch {
    /// What is known of the packet.
    pub(crate) parsed: ParsedHeaders,
    pub(crate) segment: Segment,
    /// What it adds.
    pub(crate) sum: PacketSum,
    /// 1: it goes up.
    pub(crate) up: u32,
    /// The packet's flow.
    pub(crate) key: FlowKey,
    /// Another key that is looked for.
    pub(crate) turned: FlowKey,
    /// Where `table` looks, what it found there, and what it puts there.
    pub(crate) place: Place,
    pub(crate) found: Found,
    pub(crate) entry: Entry,
    /// The whole key of the flow that was turned to, where `FLOWS` is asked.
    pub(crate) whole: FlowKey,
    pub(crate) retired: RetiredKey,
    pub(crate) spill: OverflowPacket,
    /// Nobody writes it.
    pub(crate) nothing: SpillCounters,
    /// A SYN's options.
    pub(crate) options: Options,
    pub(crate) fragment: FragmentKey,
    pub(crate) owner: FragmentOwner,
}

/// What one buffer, or several fragments, add to a flow.
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

/// A packet on its way to its source.
#[repr(C)]
pub(crate) struct OverflowPacket {
    pub(crate) key: SpillKey,
    /// 1: from client to server.
    pub(crate) up: u32,
    /// 1: a SYN, or a SYN-ACK.
    pub(crate) opens: u32,
}

/// A SYN's options.
#[repr(C)]
pub(crate) struct Options {
    /// More than there can be, so that a mask keeps every index within.
    pub(crate) bytes: [u8; 64],
    /// 1: MP_JOIN is one of them.
    pub(crate) join: u32,
}

impl Options {
    /// No options.
    #[inline(always)]
    pub(crate) unsafe fn clear(scratch: *mut Scratch) {
        // SAFETY: the caller's: this CPU's own element.
        unsafe { (&raw mut (*scratch).options.join).write_volatile(0) }
    }

    /// Returns true if MP_JOIN is one of them.
    #[inline(always)]
    pub(crate) unsafe fn join(scratch: *const Scratch) -> bool {
        // SAFETY: the caller's: this CPU's own element.
        unsafe { (&raw const (*scratch).options.join).read_volatile() == 1 }
    }
}

/// Where the flow is that was turned to.
#[repr(C)]
pub(crate) struct Found {
    /// 0: nowhere.
    pub(crate) is: u32,
    pub(crate) set: u32,
    /// None of the set's: beside it.
    pub(crate) way: u32,
}

/// All kinds of report.
pub(crate) const KINDS: usize = 18;

/// What a CPU has log_budget of one kind.
#[repr(C)]
pub(crate) struct LogBudget {
    /// Since when, on the kernel's monotonic clock.
    pub(crate) since: u64,
    pub(crate) count: u64,
}
