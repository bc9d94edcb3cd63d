//! The kernel interface of mailflow: loads, attaches and reads the BPF program. The only crate that uses aya.
//!
//! - `host`: the machine: kernel version, capabilities, interfaces, rtnetlink, clocks
//! - `program`: the object: compatibility with old kernels, loading, kernel log
//! - `flow_table`: reads the maps, evicts flows, converts ticks into times
//! - `attach`: attaches programs, and keeps them attached
//! - `persist`: pinned maps and links, and the migration to another map layout

mod attach;
mod error;
mod flow_table;
mod handle;
mod host;
pub mod options;
mod persist;
mod program;
#[cfg(test)]
mod testing;

pub use self::{
    attach::{
        helper::Lookout,
        status::{Bound, BoundInterface, Place, Standing, Verify},
    },
    error::{KernelError, PinError, holder},
    flow_table::{
        conservation::{Difference, Held, Sum},
        element::{key_bytes, pack_spill_key, unpack_key, unpack_spill_key},
        reader::{PendingOverflow, PendingSuperseded},
        scan::{FlowBatch, FlowScan},
        snapshot::Snapshot,
    },
    handle::{Begun, Kernel},
    host::{
        addresses::{Addresses, InsidePrefix},
        bpf_probe::{Refusal, try_bpf},
        capabilities::{self, check_capabilities},
        device::present,
        hook::{Attachment, Direction},
        interface_report::{AtHook, Examined, examine, matching},
        kernel_version::KernelVersion,
        name_pattern as pattern,
        netlink::LinkChanges,
        roles::{roles_are_host, roles_mix},
        sockets,
        system_clock::{self as clock, ClockState, clock_state},
    },
    options::{LoadOptions, Programs},
    persist::{
        bpffs::{bpf_file_system, is_private as private_file_system},
        kernel_checkpoint::Kept,
        lock::lock_holder,
        pins::{LAYOUT, Pins},
        stale_checkpoint::Ahead,
    },
    program::{names::replay_program, object::OBJECT},
};
