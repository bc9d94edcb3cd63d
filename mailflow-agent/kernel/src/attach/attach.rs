//! Attachment of programs: which program at which hook, and the fallbacks if a hook refuses it.

use aya::programs::{LinkOrder, ProgramError, XdpMode, tc::TcAttachOptions};
use tracing::{info, warn};

use super::{
    clsact::{clsact, side},
    link::{Hung, Link, Spot, id},
    pinned_link,
};
use crate::{
    error::{KernelError, chain, errno},
    host::{
        hook::{Attachment, Direction},
        interface::{self, Interface},
        kernel_version::KernelVersion,
    },
    options::{Hook, Role},
    program::{load::Loaded, names::programs},
};

/// Attaches the program of `role` for one direction of an interface: by its pinned link, or by a new one.
pub(super) fn attach(
    loaded: &mut Loaded,
    spot: Spot<'_>,
    role: Role,
    hook: Hook,
) -> Result<Hung, KernelError> {
    let Spot { interface, direction, .. } = spot;
    let link = interface.link()?;
    if direction == Direction::Ingress && interface.filtered_bridge() {
        warn!(
            interface = interface.name(),
            "packets of this bridge pass the IP filters before they are counted (net.bridge.bridge-nf-call-iptables); watch its ports, or switch that off"
        );
    }
    let (xdp, ingress, egress) = programs(role);
    let (classifier, chain) = match direction {
        Direction::Egress => (for_link(egress.unwrap_or(ingress), link), Vec::new()),
        Direction::Ingress => (for_link(ingress, link), ingress_chain(loaded.version, interface, link, hook)),
    };
    let (name, mut hung) = match pinned_link::take_over(loaded, spot, &chain, xdp, &classifier) {
        Some((program, hung)) => match better(loaded, interface, &hung, hook, &chain, xdp) {
            Some(better) => {
                // Its pin goes with it, before the other one takes its place.
                drop(hung);
                better
            }
            None => {
                let (interface, direction) = (interface.name(), direction.name());
                info!(interface, direction, hook = hung.attachment.name(), %program, "took over the link of the agent before");
                return Ok(hung);
            }
        },
        None => match direction {
            Direction::Egress => at_tc(loaded, interface, direction, classifier, Vec::new())?,
            Direction::Ingress => at_ingress(loaded, interface, &chain, xdp, classifier)?,
        },
    };
    hung.link = hung.link.pinned(spot);
    info!(
        interface = interface.name(),
        direction = hung.direction.name(),
        hook = hung.attachment.name(),
        program = %name,
        "attached"
    );
    Ok(hung)
}

fn for_link(program: &str, link: interface::Link) -> String {
    match link {
        interface::Link::Ethernet => program.to_owned(),
        interface::Link::Ip => format!("{program}_ip"),
    }
}

/// Returns the XDP modes to try at ingress before TC.
fn ingress_chain(
    version: KernelVersion,
    interface: &Interface,
    link: interface::Link,
    hook: Hook,
) -> Vec<Attachment> {
    let interface_name = interface.name();
    let against = match (hook, link) {
        (Hook::Tc, _) => return Vec::new(),
        (_, interface::Link::Ip) => Some("its frames have no Ethernet header".to_owned()),
        (Hook::Xdp, interface::Link::Ethernet) => None,
        (Hook::Auto, interface::Link::Ethernet) => interface.against_native_xdp(),
    };
    if let Some(reason) = against {
        info!(interface = interface_name, %reason, "TC rather than XDP");
        return Vec::new();
    }
    if version >= KernelVersion::XDP_FRAGS {
        vec![Attachment::XdpFrags, Attachment::Xdp]
    } else {
        vec![Attachment::Xdp]
    }
}

fn at_ingress(
    loaded: &mut Loaded,
    interface: &Interface,
    attachments: &[Attachment],
    xdp: &str,
    classifier: String,
) -> Result<(String, Hung), KernelError> {
    let mut refused = Vec::new();
    match at_xdp(loaded, interface, attachments, xdp, &mut refused)? {
        Some(hung) => Ok(hung),
        None => at_tc(loaded, interface, Direction::Ingress, classifier, refused),
    }
}

/// Attaches by the first XDP mode that the interface accepts.
fn at_xdp(
    loaded: &mut Loaded,
    interface: &Interface,
    attachments: &[Attachment],
    xdp: &str,
    refused: &mut Vec<String>,
) -> Result<Option<(String, Hung)>, KernelError> {
    for attachment in attachments {
        let name = if *attachment == Attachment::XdpFrags { format!("{xdp}_frags") } else { xdp.to_owned() };
        let program = loaded.xdp(&name).ok_or(KernelError::Missing("XDP program"))?;
        let result = program.attach(interface.name(), XdpMode::Driver);
        match result.and_then(|link| program.take_link(link)) {
            Ok(link) => {
                let hung = Hung {
                    direction: Direction::Ingress,
                    attachment: *attachment,
                    program: id(program.info(), &name)?,
                    link: Link::Xdp(link),
                };
                return Ok(Some((name, hung)));
            }
            Err(error) => {
                let reason = explain(&error);
                warn!(interface = interface.name(), hook = attachment.name(), %reason, "refused, trying the next hook");
                refused.push(format!("{attachment}: {reason}"));
            }
        }
    }
    Ok(None)
}

/// Moves from a TC link that was taken over to XDP, if the configuration names XDP and the interface accepts
/// it now. A packet in between is seen by both programs rather than by none.
fn better(
    loaded: &mut Loaded,
    interface: &Interface,
    taken: &Hung,
    hook: Hook,
    chain: &[Attachment],
    xdp: &str,
) -> Option<(String, Hung)> {
    if hook != Hook::Xdp || taken.attachment != Attachment::Tcx || taken.direction != Direction::Ingress {
        return None;
    }
    at_xdp(loaded, interface, chain, xdp, &mut Vec::new()).ok().flatten()
}

fn at_tc(
    loaded: &mut Loaded,
    interface: &Interface,
    direction: Direction,
    name: String,
    mut refused: Vec<String>,
) -> Result<(String, Hung), KernelError> {
    let attachment = if loaded.version >= KernelVersion::TCX { Attachment::Tcx } else { Attachment::Clsact };
    let program = loaded.classifier(&name).ok_or(KernelError::Missing("TC program"))?;
    let side = side(direction);
    let result = match attachment {
        Attachment::Tcx => program
            // First: behind another program that answers PASS, nothing would be seen.
            .attach_with_options(interface.name(), side, TcAttachOptions::TcxOrder(LinkOrder::first())),
        _ => clsact(program, interface.name(), side),
    };
    match result.and_then(|link| program.take_link(link)) {
        Ok(link) => {
            let program = id(program.info(), &name)?;
            Ok((name, Hung { direction, attachment, program, link: Link::Tc(link) }))
        }
        Err(error) => {
            refused.push(format!("{attachment} at {}: {}", direction.name(), explain(&error)));
            Err(KernelError::Attach { interface: interface.name().to_owned(), reasons: refused.join("; ") })
        }
    }
}

/// Returns the reason of a refusal: the meaning of the errno here.
fn explain(error: &ProgramError) -> String {
    let meaning = match errno(error) {
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program or mode is in place",
        Some(libc::ERANGE) => "the MTU is too large for the driver's XDP",
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP",
        Some(libc::EPERM) => "not permitted: CAP_NET_ADMIN and CAP_BPF are needed",
        Some(libc::EINVAL) => "the driver refuses it as it is set up (offloads, queues, MTU)",
        _ => return chain(error),
    };
    format!("{meaning} ({})", chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attach::clsact::leave_clsact,
        host::netlink,
        testing::{filters, in_namespace, load_as_on, run},
    };

    fn attach_to_clsact() -> (Loaded, Vec<Hung>) {
        let mut loaded = load_as_on(KernelVersion(6, 1));
        let lo = Interface::find("lo").unwrap();
        let spot =
            |direction| Spot { configured: "lo", interface: &lo, direction, pins: None, lookout: None };
        let hang = |direction| attach(&mut loaded, spot(direction), Role::Host, Hook::Tc).unwrap();
        let links = [Direction::Ingress, Direction::Egress].map(hang).into();
        (loaded, links)
    }

    #[test]
    fn a_crashed_agents_filter_is_taken_over_not_doubled() {
        in_namespace(|| {
            let (crashed, links) = attach_to_clsact();
            assert!(links.iter().all(|hung| hung.attachment == Attachment::Clsact));
            assert_eq!(filters(), 2);
            std::mem::forget(links);
            drop(crashed);
            assert_eq!(filters(), 2, "they outlive a crash");
            let (_loaded, links) = attach_to_clsact();
            assert_eq!(filters(), 2);
            drop(links);
            assert_eq!(filters(), 0);
        });
    }

    #[test]
    fn a_filter_left_where_nobody_looks_any_more_goes_and_others_stay() {
        in_namespace(|| {
            let (crashed, links) = attach_to_clsact();
            std::mem::forget(links);
            drop(crashed);
            run("tc filter add dev lo ingress prio 2 protocol ip u32 match u32 0 0 classid 1:1");
            let seen = netlink::filters(1, Direction::Ingress).unwrap();
            assert_eq!(seen[0].name.as_deref(), Some("tc_host_in"));
            assert!(seen[1..].iter().all(|filter| filter.program.is_none()), "u32 has no program: {seen:?}");
            leave_clsact(&[(Some(1), Direction::Egress)]);
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
            assert!(explain(&refusal).starts_with("the MTU is too large"), "{}", explain(&refusal));
            let large = Interface::find("large").unwrap();
            let spot = Spot {
                configured: "large",
                interface: &large,
                direction: Direction::Ingress,
                pins: None,
                lookout: None,
            };
            let mut attach = |hook| attach(&mut loaded, spot, Role::Lan, hook).unwrap();
            assert_eq!(attach(Hook::Xdp).attachment, Attachment::Clsact);
            run("ip link set other mtu 1500");
            assert_eq!(attach(Hook::Xdp).attachment, Attachment::Xdp);
        });
    }
}
