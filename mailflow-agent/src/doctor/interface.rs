//! An interface that is to be watched.

use std::fs;

use super::Finding;
use crate::{
    config::{Interface, Role},
    kernel::{self, Examined},
};

/// All there is to say of it.
pub(super) fn examine(watched: &Interface) -> Vec<Finding> {
    let name = &watched.name;
    let examined = match kernel::examine(name) {
        Ok(examined) => examined,
        Err(error) => {
            return vec![Finding::bad(
                name,
                error.to_string(),
                "correct its name; it is watched once it appears",
            )];
        }
    };
    let role = if watched.role == Role::Auto { examined.role } else { watched.role };
    let mut findings = vec![
        side(name, role, &examined),
        xdp(name, &examined),
        hooks(name, &examined),
        losses(name, role, &examined),
    ];
    findings.extend(bridge(name, &examined));
    findings.extend(offloads(name));
    findings
}

/// Whether what is watched is where the role wants it.
fn side(name: &str, role: Role, examined: &Examined) -> Finding {
    let what = format!("{name} role");
    let reason = &examined.reason;
    match role {
        Role::Lan if examined.default_route => Finding::warn(
            what,
            "lan, but this machine's default route leaves here: behind source NAT the internal hosts cannot be told apart",
            "watch the interface on the inside",
        ),
        Role::Lan if !examined.forwards => Finding::warn(
            what,
            "lan, but this machine forwards nothing",
            "role: host for the machine's own mail, mirror for copies; or switch forwarding on",
        ),
        Role::Mirror if !examined.promiscuous => Finding::warn(
            what,
            "mirror, but the interface is not in promiscuous mode: a NIC drops frames for others",
            format!("ip link set {name} promisc on"),
        ),
        _ => Finding::ok(what, format!("{}: {reason}", role.name())),
    }
}

fn xdp(name: &str, examined: &Examined) -> Finding {
    let what = format!("{name} hook");
    match &examined.against_xdp {
        Some(reason) => Finding::ok(what, format!("TC rather than XDP: {reason}")),
        None => Finding::ok(what, "native XDP is tried first"),
    }
}

fn hooks(name: &str, examined: &Examined) -> Finding {
    let what = format!("{name} others");
    match &examined.programs {
        Err(error) => {
            Finding::warn(what, format!("the programs at its hooks cannot be listed: {error}"), "run as root")
        }
        Ok(programs) if programs.is_empty() => Finding::ok(what, "no program is at its hooks"),
        Ok(programs) => {
            let all: Vec<_> = programs.iter().map(|program| program.shown.as_str()).collect();
            let all = all.join(", ");
            if programs.iter().all(|program| program.ours) {
                return Finding::ok(what, format!("at its hooks: {all}"));
            }
            Finding::warn(
                what,
                format!("at its hooks: {all}"),
                "the agent goes first and passes on; what an XDP program before TC drops or redirects is not seen",
            )
        }
    }
}

/// What changes the packets of a bridge before they are counted.
fn bridge(name: &str, examined: &Examined) -> Option<Finding> {
    examined.filtered_bridge.then(|| {
        Finding::warn(
            format!("{name} bridge"),
            "its packets pass the IP filters first: translated addresses split flows, and fragments come put together",
            "watch its ports instead, or sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0",
        )
    })
}

fn losses(name: &str, role: Role, examined: &Examined) -> Finding {
    let what = format!("{name} losses");
    match examined.dropped {
        None => Finding::warn(what, "its counters cannot be read", "see `ip -s link`"),
        Some(0) => Finding::ok(what, "it has dropped nothing on receipt"),
        Some(dropped) if role == Role::Mirror => Finding::warn(
            what,
            format!("{dropped} packets were dropped on receipt: they are missing from the counts"),
            "larger rings (ethtool -G), more queues, or less traffic on the mirror port",
        ),
        Some(dropped) => Finding::ok(
            what,
            format!("{dropped} packets were dropped on receipt, and so neither forwarded nor counted"),
        ),
    }
}

/// What the NIC does without the kernel, as far as ethtool is there to tell.
fn offloads(name: &str) -> Vec<Finding> {
    let what = format!("{name} offloads");
    let told = std::process::Command::new("ethtool").args(["-k", name]).output();
    let Some(told) = told.ok().filter(|told| told.status.success()) else {
        return vec![Finding::warn(what, "cannot be told without ethtool", "install ethtool")];
    };
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let on = |feature: &str| told.lines().any(|line| line.trim().starts_with(&format!("{feature}: on")));
    let mut findings = Vec::new();
    if on("hw-tc-offload") {
        findings.push(Finding::warn(
            &what,
            "hw-tc-offload is on: flows that the NIC forwards itself are invisible to every hook",
            format!("ethtool -K {name} hw-tc-offload off, and no `flags offload` in nftables' flowtables"),
        ));
    }
    if on("large-receive-offload") {
        findings.push(Finding::warn(
            &what,
            "large-receive-offload is on: packets are merged beyond recognition, and XDP is refused",
            format!("ethtool -K {name} lro off"),
        ));
    }
    let flowtables = fs::read_to_string("/proc/net/nf_flowtable").unwrap_or_default();
    if flowtables.lines().any(|line| line.contains("OFFLOAD")) {
        findings.push(Finding::warn(
            &what,
            "flowtables are offloaded",
            "take `flags offload` out of nftables' flowtables",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(what, "GRO and TSO count exactly; nothing is forwarded by the NIC"));
    }
    findings
}
