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

/// Returns the part of a program's name that the kernel keeps: 15 bytes (`BPF_OBJ_NAME_LEN`, linux/bpf.h).
fn kept(name: &str) -> &str {
    name.get(..15).unwrap_or(name)
}

/// Returns the role of the program with this name, as far as the kernel keeps it; `None` if the object has no such
/// program.
pub(crate) fn role_of(name: &str) -> Option<Role> {
    let has_name = |role: &Role| {
        let (xdp, ingress, egress) = programs(*role);
        let tc = [Some(ingress), egress].into_iter().flatten();
        let tc = tc.flat_map(|name| [name.to_owned(), format!("{name}_ip")]);
        tc.chain([xdp.to_owned(), format!("{xdp}_frags")]).any(|own| kept(&own) == kept(name))
    };
    [Role::Lan, Role::Host, Role::Mirror].into_iter().find(has_name)
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
    fn the_role_of_a_program_is_known_by_its_name() {
        for (name, role) in [
            ("tc_lan_in", Role::Lan),
            ("xdp_lan_frags", Role::Lan),
            ("tc_host_out_ip", Role::Host),
            ("xdp_mirror_frag", Role::Mirror),
            ("xdp_mirror_frags", Role::Mirror),
            ("tc_mirror", Role::Mirror),
        ] {
            assert_eq!(role_of(name), Some(role), "{name}");
        }
        for name in ["xdp_drop", "tc_acl", "tc_lan", "tc_lan_in2", "ticks", ""] {
            assert_eq!(role_of(name), None, "{name}");
        }
    }
}
