//! Attaching: which program goes where, and what is tried when a hook refuses it.

use std::fmt;

use aya::programs::{
    LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, XdpMode,
    tc::{self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle},
};
use tracing::{info, warn};

use super::{
    error::{KernelError, chain, errno},
    interface::{self, Interface},
    load::Loaded,
    machine::KernelVersion,
    pinned::{self, Link},
    pins::Pins,
};
use crate::config::{Hook, Role};

/// Where a packet passes an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the machine.
    Ingress,
    /// Out of it.
    Egress,
}

impl Direction {
    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// A kind of hook that a program hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// Native XDP, for frames in several buffers too.
    XdpFrags,
    /// Native XDP.
    Xdp,
    /// TCX.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

impl Attachment {
    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Attachment::XdpFrags => "xdp.frags",
            Attachment::Xdp => "xdp",
            Attachment::Tcx => "tcx",
            Attachment::Clsact => "clsact",
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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
    let (xdp, ingress, egress) = programs(role);
    let (classifier, chain) = match direction {
        Direction::Egress => (for_link(egress.unwrap_or(ingress), link), Vec::new()),
        Direction::Ingress => (for_link(ingress, link), ingress_chain(loaded.version, interface, link, hook)),
    };
    if let Some((program, hung)) = pinned::take_over(loaded, spot, &chain, xdp, &classifier) {
        let (interface, direction) = (interface.name(), direction.name());
        info!(interface, direction, hook = hung.attachment.name(), %program, "took over the link of the agent before");
        return Ok(hung);
    }
    let (name, mut hung) = match direction {
        Direction::Egress => at_tc(loaded, interface, direction, classifier, Vec::new())?,
        Direction::Ingress => at_ingress(loaded, interface, &chain, xdp, classifier)?,
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
                return Ok((name, hung));
            }
            Err(error) => {
                let reason = explain(&error);
                warn!(interface = interface.name(), hook = attachment.name(), %reason, "refused, trying the next hook");
                refused.push(format!("{attachment}: {reason}"));
            }
        }
    }
    at_tc(loaded, interface, Direction::Ingress, classifier, refused)
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
    let side = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
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
    use crate::kernel::{LoadOptions, OBJECT, Programs, SilenceLimits};

    /// The program as on a kernel of that version, as far as attaching goes.
    pub(in crate::kernel) fn load_as_on(version: KernelVersion) -> Loaded {
        let silences =
            SilenceLimits { closed: Duration::ZERO, unanswered: Duration::ZERO, idle: Duration::ZERO };
        let options = LoadOptions {
            flows: 8,
            flows_per_source: 8,
            overflow: 8,
            ipv6_prefix: 64,
            local_only: false,
            external_clock: true,
            silences,
            programs: Programs::All,
            kernel_log: None,
        };
        let mut loaded = Loaded::new(OBJECT, &options, None).unwrap();
        loaded.version = version;
        loaded
    }

    /// Runs a test on a thread in a network namespace of its own.
    pub(in crate::kernel) fn in_namespace(test: impl FnOnce() + Send + 'static) {
        let inside = || {
            // SAFETY: moves this thread alone into a network namespace of its own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "this test needs root");
            test();
        };
        std::thread::spawn(inside).join().unwrap();
    }

    /// Runs a command in the thread's namespace.
    pub(in crate::kernel) fn run(line: &str) -> String {
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// How many filters the loopback has.
    pub(in crate::kernel) fn filters() -> usize {
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
