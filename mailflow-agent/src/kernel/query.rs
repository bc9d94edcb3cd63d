//! Whether a program is still where it was attached, and who is before it.

use std::io;

use aya::programs::loaded_programs;

use super::{
    attach::{Attachment, Direction},
    netlink,
};

/// Where a program was found.
#[derive(Debug)]
pub(super) enum Found {
    /// At its hook; `before` are the ids of the programs that run before it.
    There {
        /// In the order in which they run; `None` for a filter that is no BPF program.
        before: Vec<Option<u32>>,
    },
    /// Not at its hook; instead there may be another one, with this id.
    Gone {
        /// Of the program that sits there instead.
        instead: Option<u32>,
    },
}

/// Looks for the program with this id at a hook of a device.
///
/// # Errors
/// The kernel does not answer, for instance as capabilities were given up.
pub(super) fn find(
    device: u32,
    direction: Direction,
    attachment: Attachment,
    program: u32,
) -> io::Result<Found> {
    let line: Vec<Option<u32>> = match attachment {
        Attachment::XdpFrags | Attachment::Xdp => {
            let ids = netlink::xdp_programs(device)?;
            return Ok(if ids.contains(&program) {
                Found::There { before: Vec::new() }
            } else {
                Found::Gone { instead: ids.first().copied() }
            });
        }
        Attachment::Tcx => tcx(device, direction)?.into_iter().map(Some).collect(),
        Attachment::Clsact => netlink::filters(device, direction)?,
    };
    Ok(match line.iter().position(|id| *id == Some(program)) {
        Some(position) => Found::There { before: line[..position].to_vec() },
        None => Found::Gone { instead: None },
    })
}

/// Names of programs by their ids; those that cannot be learned are left out.
pub(super) fn names(ids: &[u32]) -> Vec<(u32, String)> {
    let wanted = loaded_programs().flatten().filter(|program| ids.contains(&program.id()));
    wanted.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned()))).collect()
}

/// Most programs a TCX hook takes (`BPF_MPROG_MAX`, linux/bpf_mprog.h).
const MOST: usize = 64;

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

/// Ids of the programs at a TCX hook in the order in which they run. aya's own query also opens each
/// program, which takes CAP_SYS_ADMIN.
pub(super) fn tcx(device: u32, direction: Direction) -> io::Result<Vec<u32>> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    let mut ids = [0_u32; MOST];
    let mut attributes = QueryAttributes {
        target_ifindex: device,
        // BPF_TCX_INGRESS, BPF_TCX_EGRESS
        attach_type: match direction {
            Direction::Ingress => 46,
            Direction::Egress => 47,
        },
        prog_ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
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
    Ok(ids[..(attributes.count as usize).min(MOST)].to_vec())
}
