//! Attaching: which program goes where, and what is tried when a hook refuses it.

use std::{io, path::Path};

use aya::programs::{
    LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, XdpMode,
    tc::{self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle},
};
use tracing::{info, warn};

use super::{
    device::{self, Device},
    error::{KernelError, chain, errno},
    hook::{Attachment, Direction},
    interface::{self, Interface},
    load::Loaded,
    machine::KernelVersion,
    netlink,
    pinned::{self, Link},
    pins::Pins,
};
use crate::options::{Hook, Role};

/// A program at its place, which it leaves when this is dropped.
pub(super) struct Hung {
    /// Where on the interface.
    pub(super) direction: Direction,
    /// By what kind of hook.
    pub(super) attachment: Attachment,
    /// The kernel's id of the program.
    pub(super) program: u32,
    link: Link,
}

impl Hung {
    pub(super) fn new(direction: Direction, attachment: Attachment, program: u32, link: Link) -> Self {
        Self { direction, attachment, program, link }
    }

    /// Leaves the program where it is.
    pub(super) fn leave(self) {
        self.link.leave();
    }

    /// Pins its link again if the pin at `path` is gone; whether it was.
    pub(super) fn mend_pin(&mut self, path: &Path) -> io::Result<bool> {
        self.link.mend_pin(path)
    }
}

/// Where a program goes.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    /// The interface's name in the configuration.
    pub(super) configured: &'a str,
    pub(super) interface: &'a Interface,
    pub(super) direction: Direction,
    /// Where its link is pinned, if it is.
    pub(super) pins: Option<&'a Pins>,
}

/// Names of the programs of a role: at ingress, and at egress where one is needed.
fn programs(role: Role) -> (&'static str, &'static str, Option<&'static str>) {
    match role {
        Role::Lan | Role::Auto => ("xdp_lan", "tc_lan_in", Some("tc_lan_out")),
        Role::Host => ("xdp_host", "tc_host_in", Some("tc_host_out")),
        Role::Mirror => ("xdp_mirror", "tc_mirror", None),
    }
}

/// Whether a program is called as one of ours; the kernel keeps 15 bytes of a name (`BPF_OBJ_NAME_LEN`,
/// linux/bpf.h).
pub(super) fn is_ours(name: &str) -> bool {
    let of_role = |role| {
        let (xdp, ingress, egress) = programs(role);
        let tc = [Some(ingress), egress].into_iter().flatten();
        let tc = tc.flat_map(|name| [name.to_owned(), format!("{name}_ip")]);
        tc.chain([xdp.to_owned(), format!("{xdp}_frags")])
    };
    let mut ours = [Role::Lan, Role::Host, Role::Mirror].into_iter().flat_map(of_role);
    ours.any(|ours| ours.get(..15).unwrap_or(&ours) == name.get(..15).unwrap_or(name))
}

/// Whether a role is that of a gateway's inside.
pub(super) fn is_lan(role: Role) -> bool {
    matches!(role, Role::Lan | Role::Auto)
}

/// The directions in which a role has a program. Egress first: a flow's up packets are never counted
/// without its down ones.
pub(super) fn directions(role: Role) -> &'static [Direction] {
    match programs(role) {
        (_, _, Some(_)) => &[Direction::Egress, Direction::Ingress],
        (_, _, None) => &[Direction::Ingress],
    }
}

/// Attaches what `role` needs in one direction of an interface: by the link that is pinned for it, or anew.
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
    let (name, mut hung) = match pinned::take_over(loaded, spot, &chain, xdp, &classifier) {
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

/// The XDP forms to try at ingress before TC.
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

/// By the first form of XDP that the interface takes.
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

/// Where XDP was asked for by name and TC was taken over, XDP, if the interface takes it now. A packet in
/// between is seen by both, rather than by none.
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

/// Takes our filters off clsact everywhere but at `watched`: a filter outlives its agent, and would count on for
/// one that does not look there.
pub(super) fn leave_clsact(watched: &[(Option<u32>, Direction)]) {
    for interface in device::present() {
        let Some(device) = Device::find(&interface) else { continue };
        for direction in [Direction::Ingress, Direction::Egress] {
            if watched.contains(&(Some(device.index), direction)) {
                continue;
            }
            let ours = |filter: &netlink::Filter| {
                (filter.priority, filter.handle) == (PRIORITY, HANDLE.into())
                    && filter.name.as_deref().is_some_and(is_ours)
            };
            if netlink::filters(device.index, direction).is_ok_and(|filters| filters.iter().any(ours)) {
                match SchedClassifierLink::attached(&interface, side(direction), PRIORITY, HANDLE, None) {
                    Ok(link) => {
                        info!(%interface, direction = direction.name(), "is not watched any more; the filter of the agent before is taken away");
                        drop(link);
                    }
                    Err(error) => {
                        warn!(%interface, %error, "the filter of the agent before cannot be taken away")
                    }
                }
            }
        }
    }
}

const fn side(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// Our filter's place on clsact: the first, and always the same, so that a crashed agent's filter is
/// taken over instead of counting beside the new one.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x6d66);

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

fn clsact(
    program: &mut SchedClassifier,
    interface: &str,
    side: TcAttachType,
) -> Result<SchedClassifierLinkId, ProgramError> {
    if let Err(error) = tc::qdisc_add_clsact(interface) {
        let error = ProgramError::from(error);
        // EEXIST: somebody's clsact is there already, which serves as well.
        if errno(&error) != Some(libc::EEXIST) {
            return Err(error);
        }
    }
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    match program.attach_with_options(interface, side, TcAttachOptions::Netlink(options)) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            let link = SchedClassifierLink::attached(interface, side, PRIORITY, HANDLE, None)
                .map_err(tc::TcError::IoError)?;
            program.attach_to_link(link)
        }
        other => other,
    }
}

pub(super) fn id(info: Result<ProgramInfo, ProgramError>, name: &str) -> Result<u32, KernelError> {
    match info {
        Ok(info) => Ok(info.id()),
        Err(source) => Err(KernelError::Program { program: name.to_owned(), source: Box::new(source) }),
    }
}

/// A refusal in words: what the errno means here.
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
pub(super) mod tests {
    use std::{process::Command, time::Duration};

    use super::*;
    use crate::{LoadOptions, OBJECT, Programs, SilenceLimits};

    /// The program as on a kernel of that version, as far as attaching goes.
    pub(crate) fn load_as_on(version: KernelVersion) -> Loaded {
        let silences =
            SilenceLimits { closed: Duration::ZERO, unanswered: Duration::ZERO, idle: Duration::ZERO };
        let options = LoadOptions {
            flows: 8,
            flows_per_source: 8,
            overflow: 8,
            half_open_percent: 100,
            ipv6_prefix: 64,
            local_only: false,
            external_clock: true,
            silences,
            programs: Programs::All,
            kernel_log: None,
            hash_keys: None,
        };
        let mut loaded = Loaded::new(OBJECT, &options, None).unwrap();
        loaded.version = version;
        loaded
    }

    /// Runs a test on a thread in a network namespace of its own.
    pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
        let inside = || {
            // SAFETY: moves this thread alone into a network namespace of its own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "this test needs root");
            test();
        };
        std::thread::spawn(inside).join().unwrap();
    }

    /// Runs a command in the thread's namespace.
    pub(crate) fn run(line: &str) -> String {
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// How many filters the loopback has.
    pub(crate) fn filters() -> usize {
        let count = |side| run(&format!("tc filter show dev lo {side}")).matches("handle 0x").count();
        count("ingress") + count("egress")
    }

    fn attach_to_clsact() -> (Loaded, Vec<Hung>) {
        let mut loaded = load_as_on(KernelVersion(6, 1));
        let lo = Interface::find("lo").unwrap();
        let spot = |direction| Spot { configured: "lo", interface: &lo, direction, pins: None };
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
    fn ours_are_called_as_ours_are() {
        for name in ["tc_lan_in", "tc_host_out_ip", "xdp_mirror_frag", "xdp_mirror_frags", "tc_mirror"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["xdp_drop", "tc_acl", "tc_lan", "tc_lan_in2", "ticks", ""] {
            assert!(!is_ours(name), "{name}");
        }
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
            let spot =
                Spot { configured: "large", interface: &large, direction: Direction::Ingress, pins: None };
            let mut attach = |hook| attach(&mut loaded, spot, Role::Lan, hook).unwrap();
            assert_eq!(attach(Hook::Xdp).attachment, Attachment::Clsact);
            run("ip link set other mtu 1500");
            assert_eq!(attach(Hook::Xdp).attachment, Attachment::Xdp);
        });
    }
}
