//! Report of an interface, for `doctor`.

use std::{fs, io, net::IpAddr};

use ipnet::IpNet;

use super::{
    addresses,
    device::Device,
    hook::{Attachment, Direction},
    interface::{self, NetworkInterface},
    name_pattern::NamePattern,
    netlink,
};
use crate::{attach::query, error::KernelError, options::Role, program::names};

/// Report of an interface.
#[derive(Debug)]
pub struct InterfaceReport {
    /// Automatic role.
    pub role: Role,
    /// Reason of the role.
    pub reason: String,
    /// True if this machine forwards packets.
    pub forwards: bool,
    /// True if there is a default route by this interface.
    pub default_route: bool,
    /// Addresses, without link-local ones.
    pub addresses: Vec<IpAddr>,
    /// Networks behind the interface.
    pub prefixes: Vec<IpNet>,
    /// True if it receives frames for other hosts.
    pub promiscuous: bool,
    /// Reasons against native XDP.
    pub xdp_obstacle: Option<String>,
    /// True for a bridge whose packets pass the IP filters first.
    pub filtered_bridge: bool,
    /// Programs at its hooks.
    pub programs: io::Result<Vec<HookProgramReport>>,
    /// Packets dropped on receipt; `None` if the counter cannot be read.
    pub dropped: Option<u64>,
}

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookProgramReport {
    /// Text: `tcx ingress cil_from_netdev (id 42)`.
    pub text: String,
    /// True if it has the name of one of our programs.
    pub is_own: bool,
}

/// Reports on an interface; with `ask_bpf` also on its programs, which takes bpf(2).
///
/// # Errors
/// There is no such interface, or its type is unknown.
pub fn report_interface(name: &str, ask_bpf: bool) -> Result<InterfaceReport, KernelError> {
    let interface = NetworkInterface::find(name)?;
    let link = interface.link()?;
    let (role, reason) = interface.automatic_role();
    let known = addresses::read([(interface.index(), name)].into_iter(), None).unwrap_or_default();
    let all = netlink::addresses().unwrap_or_default().into_iter();
    let interface_addresses = all.filter(|address| address.device == interface.index() && address.global);
    let xdp_obstacle = match link {
        interface::LinkType::Ethernet => interface.native_xdp_obstacle(),
        interface::LinkType::Ip => Some("its frames have no Ethernet header".to_owned()),
    };
    Ok(InterfaceReport {
        role,
        reason,
        forwards: interface::is_forwarding(),
        default_route: interface::has_default_route(interface.index()),
        addresses: interface_addresses.map(|address| address.local).collect(),
        prefixes: known.inside.iter().map(|found| found.prefix).collect(),
        promiscuous: interface.is_promiscuous(),
        xdp_obstacle,
        filtered_bridge: interface.is_filtered_bridge(),
        programs: match ask_bpf {
            true => hook_programs(interface.index()),
            false => Err(io::Error::other("bpf(2) ends the process")),
        },
        dropped: Device::name_of(interface.index()).and_then(|name| dropped(&name)),
    })
}

/// Returns the interfaces that match a pattern by any of their names, without the loopback.
pub fn matching_interfaces(pattern: &NamePattern) -> Vec<String> {
    let links = netlink::links().unwrap_or_default().into_iter();
    let matching_interfaces =
        links.filter(|link| !link.loopback && link.names.iter().any(|name| pattern.matches(name)));
    matching_interfaces.filter_map(|link| link.names.into_iter().next()).collect()
}

/// Returns the programs at the hooks of a device.
fn hook_programs(device: u32) -> io::Result<Vec<HookProgramReport>> {
    let mut found: Vec<(String, Option<u32>)> = Vec::new();
    let xdp = netlink::xdp_programs(device)?;
    found.extend(xdp.into_iter().map(|id| (Attachment::Xdp.name().to_owned(), Some(id))));
    for direction in [Direction::Ingress, Direction::Egress] {
        let hook = |attachment: Attachment| format!("{attachment} {}", direction.name());
        // Before Linux 6.6 there is no TCX to ask.
        let tcx = query::tcx_programs(device, direction).unwrap_or_default();
        found.extend(tcx.into_iter().map(|id| (hook(Attachment::Tcx), Some(id))));
        let filters = netlink::filters(device, direction).unwrap_or_default();
        found.extend(filters.into_iter().map(|filter| (hook(Attachment::Clsact), filter.program)));
    }
    let ids: Vec<u32> = found.iter().filter_map(|(_, id)| *id).collect();
    let names = query::program_names(&ids);
    let text = found.into_iter().map(|(hook, id)| match id {
        Some(id) => {
            let name = names.iter().find(|(known, _)| *known == id).map_or("?", |(_, name)| name);
            HookProgramReport {
                text: format!("{hook} {name} (id {id})"),
                is_own: names::role_of(name).is_some(),
            }
        }
        None => HookProgramReport { text: format!("{hook} a filter"), is_own: false },
    });
    Ok(text.collect())
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
    fn the_loopback_has_a_report() {
        let lo = report_interface("lo", true).unwrap();
        assert!(lo.xdp_obstacle.is_some() && lo.dropped.is_some() && !lo.promiscuous, "{lo:?}");
        assert!(lo.programs.is_ok(), "{lo:?}");
        assert!(report_interface("nosuch", true).is_err());
    }
}
