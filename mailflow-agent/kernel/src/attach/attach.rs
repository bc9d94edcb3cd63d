//! Attachment of programs: which program at which hook, and the fallbacks if a hook refuses it.

use aya::programs::{LinkOrder, ProgramError, XdpMode, tc::TcAttachOptions};
use tracing::{info, warn};

use super::{
    attached_program::{AttachTarget, AttachedProgram, ProgramLink, program_id},
    clsact::{attach_to_clsact, tc_attach_type},
    pinned_link,
};
use crate::{
    error::{KernelError, errno, error_chain},
    host::{
        hook::{Attachment, Direction},
        interface::{self, NetworkInterface},
        kernel_version::KernelVersion,
    },
    options::{Hook, Role},
    program::{load::Loaded, names::programs},
};

/// Attaches the program of `role` for one direction of an interface: by its pinned link, or by a new one.
pub(super) fn attach(
    loaded: &mut Loaded,
    target: AttachTarget<'_>,
    role: Role,
    hook: Hook,
) -> Result<AttachedProgram, KernelError> {
    let AttachTarget { interface, direction, .. } = target;
    let link = interface.link()?;
    if direction == Direction::Ingress && interface.is_filtered_bridge() {
        warn!(
            interface = interface.name(),
            "packets of this bridge pass the IP filters before they are counted (net.bridge.bridge-nf-call-iptables); watch its ports, or switch that off"
        );
    }
    let (xdp, ingress, egress) = programs(role);
    let (classifier, modes) = match direction {
        Direction::Egress => (program_for_link_type(egress.unwrap_or(ingress), link), Vec::new()),
        Direction::Ingress => {
            (program_for_link_type(ingress, link), xdp_modes(loaded.version, interface, link, hook))
        }
    };
    let (name, mut attached) = match pinned_link::take_over(loaded, target, &modes, xdp, &classifier) {
        Some((program, attached)) => match upgrade_to_xdp(loaded, interface, &attached, hook, &modes, xdp) {
            Some(upgraded) => {
                // Its pin is removed before the new link is pinned at the same path.
                drop(attached);
                upgraded
            }
            None => {
                let (interface, direction) = (interface.name(), direction.name());
                info!(interface, direction, hook = attached.attachment.name(), %program, "took over the link of the agent before");
                return Ok(attached);
            }
        },
        None => match direction {
            Direction::Egress => attach_tc(loaded, interface, direction, classifier, Vec::new())?,
            Direction::Ingress => attach_ingress(loaded, interface, &modes, xdp, classifier)?,
        },
    };
    attached.link = attached.link.pin(target);
    info!(
        interface = interface.name(),
        direction = attached.direction.name(),
        hook = attached.attachment.name(),
        program = %name,
        "attached"
    );
    Ok(attached)
}

fn program_for_link_type(program: &str, link: interface::LinkType) -> String {
    match link {
        interface::LinkType::Ethernet => program.to_owned(),
        interface::LinkType::Ip => format!("{program}_ip"),
    }
}

/// Returns the XDP modes to try at ingress before TC.
fn xdp_modes(
    version: KernelVersion,
    interface: &NetworkInterface,
    link: interface::LinkType,
    hook: Hook,
) -> Vec<Attachment> {
    let interface_name = interface.name();
    let obstacle = match (hook, link) {
        (Hook::Tc, _) => return Vec::new(),
        (_, interface::LinkType::Ip) => Some("its frames have no Ethernet header".to_owned()),
        (Hook::Xdp, interface::LinkType::Ethernet) => None,
        (Hook::Auto, interface::LinkType::Ethernet) => interface.native_xdp_obstacle(),
    };
    if let Some(reason) = obstacle {
        info!(interface = interface_name, %reason, "TC rather than XDP");
        return Vec::new();
    }
    if version >= KernelVersion::XDP_FRAGS {
        vec![Attachment::XdpFrags, Attachment::Xdp]
    } else {
        vec![Attachment::Xdp]
    }
}

fn attach_ingress(
    loaded: &mut Loaded,
    interface: &NetworkInterface,
    attachments: &[Attachment],
    xdp: &str,
    classifier: String,
) -> Result<(String, AttachedProgram), KernelError> {
    let mut refusals = Vec::new();
    match attach_xdp(loaded, interface, attachments, xdp, &mut refusals)? {
        Some(attached) => Ok(attached),
        None => attach_tc(loaded, interface, Direction::Ingress, classifier, refusals),
    }
}

/// Attaches by the first XDP mode that the interface accepts.
fn attach_xdp(
    loaded: &mut Loaded,
    interface: &NetworkInterface,
    attachments: &[Attachment],
    xdp: &str,
    refusals: &mut Vec<String>,
) -> Result<Option<(String, AttachedProgram)>, KernelError> {
    for attachment in attachments {
        let name = if *attachment == Attachment::XdpFrags { format!("{xdp}_frags") } else { xdp.to_owned() };
        let program = loaded.xdp(&name).ok_or(KernelError::Missing("XDP program"))?;
        let result = program.attach(interface.name(), XdpMode::Driver);
        match result.and_then(|link| program.take_link(link)) {
            Ok(link) => {
                let attached = AttachedProgram {
                    direction: Direction::Ingress,
                    attachment: *attachment,
                    program: program_id(program.info(), &name)?,
                    link: ProgramLink::Xdp(link),
                };
                return Ok(Some((name, attached)));
            }
            Err(error) => {
                let reason = refusal_reason(&error);
                warn!(interface = interface.name(), hook = attachment.name(), %reason, "refused, trying the next hook");
                refusals.push(format!("{attachment}: {reason}"));
            }
        }
    }
    Ok(None)
}

/// Moves from a TC link that was taken over to XDP, if the configuration names XDP and the interface accepts
/// it now. A packet in between is seen by both programs rather than by none.
fn upgrade_to_xdp(
    loaded: &mut Loaded,
    interface: &NetworkInterface,
    current: &AttachedProgram,
    hook: Hook,
    modes: &[Attachment],
    xdp: &str,
) -> Option<(String, AttachedProgram)> {
    if hook != Hook::Xdp || current.attachment != Attachment::Tcx || current.direction != Direction::Ingress {
        return None;
    }
    attach_xdp(loaded, interface, modes, xdp, &mut Vec::new()).ok().flatten()
}

fn attach_tc(
    loaded: &mut Loaded,
    interface: &NetworkInterface,
    direction: Direction,
    name: String,
    mut refusals: Vec<String>,
) -> Result<(String, AttachedProgram), KernelError> {
    let attachment = if loaded.version >= KernelVersion::TCX { Attachment::Tcx } else { Attachment::Clsact };
    let program = loaded.classifier(&name).ok_or(KernelError::Missing("TC program"))?;
    let attach_type = tc_attach_type(direction);
    let result = match attachment {
        Attachment::Tcx => program
            // First in the chain: a program before it that returns TCX_PASS ends the chain.
            .attach_with_options(
                interface.name(),
                attach_type,
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            ),
        _ => attach_to_clsact(program, interface.name(), attach_type),
    };
    match result.and_then(|link| program.take_link(link)) {
        Ok(link) => {
            let program = program_id(program.info(), &name)?;
            Ok((name, AttachedProgram { direction, attachment, program, link: ProgramLink::Tc(link) }))
        }
        Err(error) => {
            refusals.push(format!("{attachment} at {}: {}", direction.name(), refusal_reason(&error)));
            Err(KernelError::Attach { interface: interface.name().to_owned(), reasons: refusals.join("; ") })
        }
    }
}

/// Returns the reason of a refusal: the meaning of the errno here.
fn refusal_reason(error: &ProgramError) -> String {
    let meaning = match errno(error) {
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program or mode is in place",
        Some(libc::ERANGE) => "the MTU is too large for the driver's XDP",
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP",
        Some(libc::EPERM) => "not permitted: CAP_NET_ADMIN and CAP_BPF are needed",
        Some(libc::EINVAL) => "the driver refuses it with the present offloads, queues or MTU",
        _ => return error_chain(error),
    };
    format!("{meaning} ({})", error_chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attach::clsact::remove_unwatched_filters,
        host::netlink,
        testing::{filters, in_namespace, load_as_on, run},
    };

    fn attach_both_ways() -> (Loaded, Vec<AttachedProgram>) {
        let mut loaded = load_as_on(KernelVersion(6, 1));
        let lo = NetworkInterface::find("lo").unwrap();
        let target = |direction| AttachTarget {
            configured: "lo",
            interface: &lo,
            direction,
            pins: None,
            helper: None,
        };
        let attach_one = |direction| attach(&mut loaded, target(direction), Role::Host, Hook::Tc).unwrap();
        let links = [Direction::Ingress, Direction::Egress].map(attach_one).into();
        (loaded, links)
    }

    #[test]
    fn a_filter_of_a_crashed_agent_is_replaced() {
        in_namespace(|| {
            let (crashed, links) = attach_both_ways();
            assert!(links.iter().all(|attached| attached.attachment == Attachment::Clsact));
            assert_eq!(filters(), 2);
            std::mem::forget(links);
            drop(crashed);
            assert_eq!(filters(), 2, "they outlive a crash");
            let (_loaded, links) = attach_both_ways();
            assert_eq!(filters(), 2);
            drop(links);
            assert_eq!(filters(), 0);
        });
    }

    #[test]
    fn only_own_filters_at_unwatched_hooks_are_removed() {
        in_namespace(|| {
            let (crashed, links) = attach_both_ways();
            std::mem::forget(links);
            drop(crashed);
            run("tc filter add dev lo ingress prio 2 protocol ip u32 match u32 0 0 classid 1:1");
            let seen = netlink::filters(1, Direction::Ingress).unwrap();
            assert_eq!(seen[0].name.as_deref(), Some("tc_host_in"));
            assert!(seen[1..].iter().all(|filter| filter.program.is_none()), "u32 has no program: {seen:?}");
            remove_unwatched_filters(&[(Some(1), Direction::Egress)]);
            assert_eq!(netlink::filters(1, Direction::Ingress).unwrap(), seen[1..]);
            assert_eq!(netlink::filters(1, Direction::Egress).unwrap().len(), 1);
        });
    }

    #[test]
    fn frames_too_large_for_native_xdp_are_counted_at_tc() {
        in_namespace(|| {
            run("ip link add large type veth peer name other");
            run("ip link set other mtu 9000");
            // Without frames in several buffers, as before Linux 5.18.
            let mut loaded = load_as_on(KernelVersion(5, 15));
            let refusal = loaded.xdp("xdp_lan").unwrap().attach("large", XdpMode::Driver).unwrap_err();
            assert!(
                refusal_reason(&refusal).starts_with("the MTU is too large"),
                "{}",
                refusal_reason(&refusal)
            );
            let large = NetworkInterface::find("large").unwrap();
            let target = AttachTarget {
                configured: "large",
                interface: &large,
                direction: Direction::Ingress,
                pins: None,
                helper: None,
            };
            let mut attach = |hook| attach(&mut loaded, target, Role::Lan, hook).unwrap();
            assert_eq!(attach(Hook::Xdp).attachment, Attachment::Clsact);
            run("ip link set other mtu 1500");
            assert_eq!(attach(Hook::Xdp).attachment, Attachment::Xdp);
        });
    }
}
