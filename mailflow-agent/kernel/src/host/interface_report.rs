//! An interface, as `doctor` looks at it.

use std::{fs, io, net::IpAddr};

use ipnet::IpNet;

use super::{
    addresses,
    device::Device,
    hook::{Attachment, Direction},
    interface::{self, Interface},
    name_pattern::NamePattern,
    netlink,
};
use crate::{attach::query, error::KernelError, options::Role, program::names};

/// What there is to say of an interface.
#[derive(Debug)]
pub struct Examined {
    /// The role that would be chosen, ...
    pub role: Role,
    /// ... and why.
    pub reason: String,
    /// Whether this machine forwards packets.
    pub forwards: bool,
    /// Whether a default route leaves here.
    pub default_route: bool,
    /// Its addresses, but for those of the link alone.
    pub addresses: Vec<IpAddr>,
    /// The networks behind it.
    pub prefixes: Vec<IpNet>,
    /// Whether it takes frames for others.
    pub promiscuous: bool,
    /// What speaks against native XDP.
    pub against_xdp: Option<String>,
    /// Whether it is a bridge whose packets pass the IP filters first.
    pub filtered_bridge: bool,
    /// The programs at its hooks.
    pub programs: io::Result<Vec<AtHook>>,
    /// Packets it has dropped on receipt; `None` where its counters cannot be read.
    pub dropped: Option<u64>,
}

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtHook {
    /// For people: `tcx ingress cil_from_netdev (id 42)`.
    pub shown: String,
    /// Whether it is called as one of ours.
    pub ours: bool,
}

/// Looks at an interface; with `ask_bpf` also at its programs, which takes bpf(2).
///
/// # Errors
/// There is none of this name, or its kind is not known.
pub fn examine(name: &str, ask_bpf: bool) -> Result<Examined, KernelError> {
    let interface = Interface::find(name)?;
    let link = interface.link()?;
    let (role, reason) = interface.guess_role();
    let known = addresses::read([(interface.index(), name)].into_iter(), None).unwrap_or_default();
    let all = netlink::addresses().unwrap_or_default().into_iter();
    let own = all.filter(|address| address.device == interface.index() && address.global);
    let against_xdp = match link {
        interface::Link::Ethernet => interface.against_native_xdp(),
        interface::Link::Ip => Some("its frames have no Ethernet header".to_owned()),
    };
    Ok(Examined {
        role,
        reason,
        forwards: interface::forwards(),
        default_route: interface::carries_default_route(interface.index()),
        addresses: own.map(|address| address.local).collect(),
        prefixes: known.inside.iter().map(|found| found.prefix).collect(),
        promiscuous: interface.promiscuous(),
        against_xdp,
        filtered_bridge: interface.filtered_bridge(),
        programs: match ask_bpf {
            true => programs(interface.index()),
            false => Err(io::Error::other("bpf(2) ends the process")),
        },
        dropped: Device::name_of(interface.index()).and_then(|name| dropped(&name)),
    })
}

/// The interfaces that match a pattern, by any of their names, but for the loopback.
pub fn matching(pattern: &NamePattern) -> Vec<String> {
    let links = netlink::links().unwrap_or_default().into_iter();
    let matching = links.filter(|link| !link.loopback && link.names.iter().any(|name| pattern.matches(name)));
    matching.filter_map(|link| link.names.into_iter().next()).collect()
}

/// The programs at the hooks of a device.
fn programs(device: u32) -> io::Result<Vec<AtHook>> {
    let mut found: Vec<(String, Option<u32>)> = Vec::new();
    let xdp = netlink::xdp_programs(device)?;
    found.extend(xdp.into_iter().map(|id| (Attachment::Xdp.name().to_owned(), Some(id))));
    for direction in [Direction::Ingress, Direction::Egress] {
        let hook = |attachment: Attachment| format!("{attachment} {}", direction.name());
        // Before Linux 6.6 there is no TCX to ask.
        let tcx = query::tcx(device, direction).unwrap_or_default();
        found.extend(tcx.into_iter().map(|id| (hook(Attachment::Tcx), Some(id))));
        let filters = netlink::filters(device, direction).unwrap_or_default();
        found.extend(filters.into_iter().map(|filter| (hook(Attachment::Clsact), filter.program)));
    }
    let ids: Vec<u32> = found.iter().filter_map(|(_, id)| *id).collect();
    let names = query::names(&ids);
    let shown = found.into_iter().map(|(hook, id)| match id {
        Some(id) => {
            let name = names.iter().find(|(known, _)| *known == id).map_or("?", |(_, name)| name);
            AtHook { shown: format!("{hook} {name} (id {id})"), ours: names::is_ours(name) }
        }
        None => AtHook { shown: format!("{hook} a filter"), ours: false },
    });
    Ok(shown.collect())
}

/// `rx_dropped` of an interface (proc(5), /proc/net/dev): bytes packets errs drop ...
fn dropped(name: &str) -> Option<u64> {
    let devices = fs::read_to_string("/proc/net/dev").ok()?;
    let line = devices.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_examined() {
        let lo = examine("lo", true).unwrap();
        assert!(lo.against_xdp.is_some() && lo.dropped.is_some() && !lo.promiscuous, "{lo:?}");
        assert!(lo.programs.is_ok(), "{lo:?}");
        assert!(examine("nosuch", true).is_err());
    }
}
