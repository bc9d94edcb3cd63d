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
        helper::HookQueryHelper,
        status::{AttachState, AttachmentStatus, BoundInterface, EntryBinding, Verification},
    },
    error::{KernelError, PinError, holder_suffix},
    flow_table::{
        conservation::{ConservationDifference, PacketAudit, TrafficSum},
        reader::{PendingOverflow, PendingSuperseded},
        scan::{FlowBatch, FlowScan},
        snapshot::Snapshot,
    },
    handle::{Kernel, MapOrigin},
    host::{
        addresses::{Addresses, InsidePrefix},
        bpf_probe::{BpfRefusal, probe_bpf},
        capabilities::{self, check_capabilities},
        clock::{self, ClockState, clock_state},
        device::device_names,
        hook::{Attachment, Direction},
        interface_report::{HookProgramReport, InterfaceReport, matching_interfaces, report_interface},
        kernel_version::KernelVersion,
        name_pattern::NamePattern,
        netlink::LinkChanges,
        roles::{roles_are_host, roles_mix},
        sockets,
    },
    options::{LoadOptions, Programs},
    persist::{
        bpffs::{is_in_bpf_file_system, is_private_mount},
        lock::lock_holder,
        pins::{LAYOUT, Pins},
        reader_checkpoint::ReaderCheckpoint,
        stale_checkpoint::StaleCheckpointMark,
    },
    program::{names::replay_program, object::OBJECT},
};
