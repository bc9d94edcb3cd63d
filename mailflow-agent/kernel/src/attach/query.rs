//! Queries of hooks: the presence of a program, and the programs that run before it.

use std::io;

use aya::programs::loaded_programs;

use crate::host::{
    hook::{Attachment, Direction},
    netlink,
};

/// Query for a program at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HookQuery {
    /// Interface index.
    pub(crate) device: u32,
    pub(crate) direction: Direction,
    pub(crate) attachment: Attachment,
    /// Program id.
    pub(crate) program: u32,
}

/// Program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HookProgram {
    /// Program id; `None` for a filter that is not a BPF program.
    pub(crate) id: Option<u32>,
    /// Name, if the kernel reports it.
    pub(crate) name: Option<String>,
}

/// State of a hook.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HookState {
    /// Attached; `before` are the programs that run first.
    Attached {
        /// In the order in which they run.
        before: Vec<HookProgram>,
    },
    /// Not attached; another program may be there.
    Detached {
        /// Program at the hook.
        other: Option<HookProgram>,
    },
}

/// Queries a hook for a program.
///
/// # Errors
/// The kernel does not answer.
pub(super) fn query_hook(
    HookQuery { device, direction, attachment, program }: HookQuery,
) -> io::Result<HookState> {
    let ids: Vec<Option<u32>> = match attachment {
        Attachment::XdpFrags | Attachment::Xdp => {
            let ids = netlink::xdp_programs(device)?;
            return Ok(if ids.contains(&program) {
                HookState::Attached { before: Vec::new() }
            } else {
                let other = ids.first().map(|id| Some(*id));
                HookState::Detached { other: with_names(other.as_slice()).pop() }
            });
        }
        Attachment::Tcx => tcx_programs(device, direction)?.into_iter().map(Some).collect(),
        Attachment::Clsact => {
            netlink::filters(device, direction)?.into_iter().map(|filter| filter.program).collect()
        }
    };
    Ok(match ids.iter().position(|id| *id == Some(program)) {
        Some(position) => HookState::Attached { before: with_names(&ids[..position]) },
        None => HookState::Detached { other: None },
    })
}

/// Returns programs with their names.
fn with_names(ids: &[Option<u32>]) -> Vec<HookProgram> {
    let program_ids: Vec<u32> = ids.iter().flatten().copied().collect();
    // Usually there is no program, and listing the kernel's programs is needless.
    let names = if program_ids.is_empty() { Vec::new() } else { program_names(&program_ids) };
    let name = |id: u32| names.iter().find(|(known, _)| *known == id).map(|(_, name)| name.clone());
    ids.iter().map(|id| HookProgram { id: *id, name: id.and_then(name) }).collect()
}

/// Returns the names of programs by id, without those that the kernel does not report.
pub(crate) fn program_names(ids: &[u32]) -> Vec<(u32, String)> {
    let programs = loaded_programs().flatten().filter(|program| ids.contains(&program.id()));
    programs.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned()))).collect()
}

/// Largest number of programs at a TCX hook (`BPF_MPROG_MAX`, linux/bpf_mprog.h).
pub(crate) const MAX_HOOK_PROGRAMS: usize = 64;

/// The part of `union bpf_attr` that BPF_PROG_QUERY uses.
#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Returns the ids of the programs at a TCX hook, in the order in which they run. The query of aya opens each
/// program too, which takes CAP_SYS_ADMIN.
pub(crate) fn tcx_programs(device: u32, direction: Direction) -> io::Result<Vec<u32>> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    let mut ids = [0_u32; MAX_HOOK_PROGRAMS];
    let mut attributes = QueryAttributes {
        target_ifindex: device,
        // BPF_TCX_INGRESS, BPF_TCX_EGRESS
        attach_type: match direction {
            Direction::Ingress => 46,
            Direction::Egress => 47,
        },
        prog_ids: ids.as_mut_ptr() as u64,
        count: MAX_HOOK_PROGRAMS as u32,
        ..QueryAttributes::default()
    };
    // SAFETY: the attributes are the command's, and `prog_ids` points to `count` words, alive through
    // the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attributes, size_of::<QueryAttributes>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids[..(attributes.count as usize).min(MAX_HOOK_PROGRAMS)].to_vec())
}
