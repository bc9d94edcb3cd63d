//! Names of the BPF programs by role.

use crate::{
    error::KernelError,
    host::{hook::Direction, kernel_version::KernelVersion},
    options::Role,
};

/// Returns the names of the programs of a role: at ingress, and at egress if one is needed.
pub(crate) fn programs(role: Role) -> (&'static str, &'static str, Option<&'static str>) {
    match role {
        Role::Lan | Role::Auto => ("xdp_lan", "tc_lan_in", Some("tc_lan_out")),
        Role::Host => ("xdp_host", "tc_host_in", Some("tc_host_out")),
        Role::Mirror => ("xdp_mirror", "tc_mirror", None),
    }
}

/// Returns true if a program has the name of a program of this object. The kernel keeps 15 bytes of a name
/// (`BPF_OBJ_NAME_LEN`, linux/bpf.h).
pub(crate) fn is_own_program(name: &str) -> bool {
    let of_role = |role| {
        let (xdp, ingress, egress) = programs(role);
        let tc = [Some(ingress), egress].into_iter().flatten();
        let tc = tc.flat_map(|name| [name.to_owned(), format!("{name}_ip")]);
        tc.chain([xdp.to_owned(), format!("{xdp}_frags")])
    };
    let mut own_names = [Role::Lan, Role::Host, Role::Mirror].into_iter().flat_map(of_role);
    own_names.any(|own_names| own_names.get(..15).unwrap_or(&own_names) == name.get(..15).unwrap_or(name))
}

/// Returns true for the `lan` role.
pub(crate) fn is_lan(role: Role) -> bool {
    matches!(role, Role::Lan | Role::Auto)
}

/// Returns the directions in which a role has a program. Egress first: packets to the server are never
/// counted without those from it.
pub(crate) fn directions(role: Role) -> &'static [Direction] {
    match programs(role) {
        (_, _, Some(_)) => &[Direction::Egress, Direction::Ingress],
        (_, _, None) => &[Direction::Ingress],
    }
}

/// Returns the program for captures of a role: the one for frames of more than a page, if this kernel
/// supports it.
///
/// # Errors
/// The kernel is too old, or its version cannot be read.
pub fn replay_program(role: Role) -> Result<&'static str, KernelError> {
    let frags = KernelVersion::running()? >= KernelVersion::XDP_FRAGS;
    Ok(match (role, frags) {
        (Role::Lan, true) => "xdp_lan_frags",
        (Role::Lan, false) => "xdp_lan",
        (Role::Host, true) => "xdp_host_frags",
        (Role::Host, false) => "xdp_host",
        (Role::Mirror | Role::Auto, true) => "xdp_mirror_frags",
        (Role::Mirror | Role::Auto, false) => "xdp_mirror",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_programs_are_recognised_by_name() {
        for name in ["tc_lan_in", "tc_host_out_ip", "xdp_mirror_frag", "xdp_mirror_frags", "tc_mirror"] {
            assert!(is_own_program(name), "{name}");
        }
        for name in ["xdp_drop", "tc_acl", "tc_lan", "tc_lan_in2", "ticks", ""] {
            assert!(!is_own_program(name), "{name}");
        }
    }
}
