//! Attaching: which program goes where, and what is tried when a hook refuses it.

use std::fmt;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode,
    tc::{self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle},
    xdp::XdpLink,
};
use tracing::{info, warn};

use super::{
    error::{KernelError, chain, errno},
    interface::{self, Interface},
    load::Loaded,
    machine::KernelVersion,
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

/// A program at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface.
    pub interface: String,
    /// Where there.
    pub direction: Direction,
    /// By what kind of hook.
    pub attachment: Attachment,
    /// The program.
    pub program: String,
}

/// Keeps a program at its place; dropped, it takes it away.
pub(super) enum Link {
    Xdp(#[expect(dead_code, reason = "held, to be dropped")] XdpLink),
    Tc(#[expect(dead_code, reason = "held, to be dropped")] SchedClassifierLink),
}

/// Names of the programs of a role: at ingress, and at egress where one is needed.
fn programs(role: Role) -> (&'static str, &'static str, Option<&'static str>) {
    match role {
        Role::Lan | Role::Auto => ("xdp_lan", "tc_lan_in", Some("tc_lan_out")),
        Role::Host => ("xdp_host", "tc_host_in", Some("tc_host_out")),
        Role::Mirror => ("xdp_mirror", "tc_mirror", None),
    }
}

/// Attaches what `role` needs to an interface.
pub(super) fn attach(
    loaded: &mut Loaded,
    interface: &Interface,
    role: Role,
    hook: Hook,
) -> Result<Vec<(Attached, Link)>, KernelError> {
    let link = interface.link()?;
    let (xdp, ingress, egress) = programs(role);
    let mut attached = Vec::new();
    // Egress first: a flow's up packets are never counted without its down ones.
    if let Some(egress) = egress {
        let egress = for_link(egress, link);
        attached.push(at_tc(loaded, interface, Direction::Egress, &egress, Vec::new())?);
    }
    let chain = ingress_chain(loaded.version, interface, link, hook);
    attached.push(at_ingress(loaded, interface, &chain, xdp, &for_link(ingress, link))?);
    for (one, _) in &attached {
        info!(
            interface = %one.interface,
            direction = one.direction.name(),
            hook = one.attachment.name(),
            program = %one.program,
            "attached"
        );
    }
    Ok(attached)
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
    classifier: &str,
) -> Result<(Attached, Link), KernelError> {
    let mut refused = Vec::new();
    for attachment in attachments {
        let name = if *attachment == Attachment::XdpFrags { format!("{xdp}_frags") } else { xdp.to_owned() };
        let program = loaded.xdp(&name).ok_or(KernelError::Missing("XDP program"))?;
        let result = program.attach(interface.name(), XdpMode::Driver);
        match result.and_then(|link| program.take_link(link)) {
            Ok(link) => {
                let attached = Attached {
                    interface: interface.name().to_owned(),
                    direction: Direction::Ingress,
                    attachment: *attachment,
                    program: name,
                };
                return Ok((attached, Link::Xdp(link)));
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
    name: &str,
    mut refused: Vec<String>,
) -> Result<(Attached, Link), KernelError> {
    let attachment = if loaded.version >= KernelVersion::TCX { Attachment::Tcx } else { Attachment::Clsact };
    let program = loaded.classifier(name).ok_or(KernelError::Missing("TC program"))?;
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
            let attached = Attached {
                interface: interface.name().to_owned(),
                direction,
                attachment,
                program: name.to_owned(),
            };
            Ok((attached, Link::Tc(link)))
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
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;
    use crate::kernel::{LoadOptions, OBJECT, Programs, SilenceLimits};

    /// The program, attached to the loopback as on a kernel without TCX.
    fn attach_to_clsact() -> (Loaded, Vec<(Attached, Link)>) {
        let silences =
            SilenceLimits { closed: Duration::ZERO, unanswered: Duration::ZERO, idle: Duration::ZERO };
        let options = LoadOptions {
            flows: 8,
            local_only: false,
            external_clock: true,
            silences,
            programs: Programs::All,
        };
        let mut loaded = Loaded::new(OBJECT, &options).unwrap();
        loaded.version = KernelVersion(6, 1);
        let links = attach(&mut loaded, &Interface::find("lo").unwrap(), Role::Host, Hook::Tc).unwrap();
        (loaded, links)
    }

    fn filters() -> usize {
        let count = |side| {
            let output = Command::new("tc").args(["filter", "show", "dev", "lo", side]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).matches("handle 0x").count()
        };
        count("ingress") + count("egress")
    }

    #[test]
    fn a_crashed_agents_filter_is_taken_over_not_doubled() {
        let test = || {
            // SAFETY: moves this thread alone into a network namespace of its own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "this test needs root");
            let (crashed, links) = attach_to_clsact();
            assert!(links.iter().all(|(attached, _)| attached.attachment == Attachment::Clsact));
            assert_eq!(filters(), 2);
            std::mem::forget(links);
            drop(crashed);
            assert_eq!(filters(), 2, "they outlive a crash");
            let (_loaded, links) = attach_to_clsact();
            assert_eq!(filters(), 2);
            drop(links);
            assert_eq!(filters(), 0);
        };
        std::thread::spawn(test).join().unwrap();
    }
}
