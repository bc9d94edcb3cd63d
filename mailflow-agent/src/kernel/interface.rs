//! What an interface is: its link type, its driver, and what passes there.

use std::fs;

use super::{
    device::{self, Device},
    error::KernelError,
};
use crate::config::Role;

/// Link type of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Frames begin with an Ethernet header.
    Ethernet,
    /// Frames begin with the IP header.
    Ip,
}

/// A network interface.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    device: Device,
}

impl Interface {
    pub(super) fn find(name: &str) -> Result<Self, KernelError> {
        match Device::find(name) {
            Some(device) => Ok(Self { device }),
            None => {
                Err(KernelError::NoInterface { name: name.to_owned(), present: device::present().join(", ") })
            }
        }
    }

    pub(super) fn of(device: Device) -> Self {
        Self { device }
    }

    pub(super) fn name(&self) -> &str {
        &self.device.name
    }

    pub(super) fn index(&self) -> u32 {
        self.device.index
    }

    /// Whether its frames begin with an Ethernet header (include/uapi/linux/if_arp.h: Ethernet,
    /// loopback; or none, PPP, tunnels).
    pub(super) fn link(&self) -> Result<Link, KernelError> {
        let kind = self.device.link_type();
        match kind.map_err(|source| KernelError::Machine {
            what: format!("link type of {}", self.name()),
            source,
        })? {
            1 | 772 => Ok(Link::Ethernet),
            65534 | 512 | 768 | 769 | 776 | 778 => Ok(Link::Ip),
            other => Err(KernelError::Attach {
                interface: self.name().to_owned(),
                reasons: format!("its link type {other} (ARPHRD) is neither Ethernet nor IP"),
            }),
        }
    }

    /// Why native XDP would lose something here, if it would.
    pub(super) fn against_native_xdp(&self) -> Option<String> {
        let (driver, bus) = self.device.driver().unwrap_or_default();
        if bus.is_empty() || bus == "N/A" || bus == "tap" || bus == "tun" {
            return Some("it is a virtual interface".to_owned());
        }
        if matches!(driver.as_str(), "virtio_net" | "hv_netvsc" | "vif") {
            return Some(format!("with {driver}, native XDP costs the host's offloads"));
        }
        match self.device.strips_vlan_tags() {
            Ok(false) => None,
            Ok(true) => Some("the NIC strips VLAN tags, which XDP does not see then".to_owned()),
            Err(error) => Some(format!("whether the NIC strips VLAN tags cannot be told ({error})")),
        }
    }

    /// Whether it takes frames for others.
    pub(super) fn promiscuous(&self) -> bool {
        self.device.promiscuous().unwrap_or(false)
    }

    /// What passes here, and why that is believed.
    pub(super) fn guess_role(&self) -> (Role, String) {
        let forwards = forwards();
        let defaults = default_routes();
        if self.promiscuous() {
            return (Role::Mirror, "it is in promiscuous mode".to_owned());
        }
        if !forwards {
            return (Role::Host, "this machine forwards nothing".to_owned());
        }
        if defaults.iter().any(|name| name == self.name()) {
            return (Role::Host, "this machine's default route leaves here: behind source NAT only the machine's own mail can be told apart".to_owned());
        }
        match defaults.first() {
            Some(route) => {
                (Role::Lan, format!("this machine forwards, and its default route leaves by {route}"))
            }
            None => (Role::Lan, "this machine forwards".to_owned()),
        }
    }
}

/// Whether this machine forwards packets.
pub(super) fn forwards() -> bool {
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].iter().any(|file| {
        fs::read_to_string(format!("/proc/sys/net/{file}")).is_ok_and(|value| value.trim() == "1")
    })
}

/// Interfaces that default routes leave by, IPv4 first.
pub(super) fn default_routes() -> Vec<String> {
    let v4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let mut names: Vec<String> = v4.lines().skip(1).filter_map(default_v4).collect();
    names.extend(v6.lines().filter_map(default_v6));
    names.dedup();
    names
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`
fn default_v4(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    (*fields.get(1)? == "00000000" && *fields.get(7)? == "00000000").then(|| fields[0].to_owned())
}

/// `destination length source length next-hop metric refcount use flags device`; the kernel's own
/// unreachable route is on lo.
fn default_v6(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let device = *fields.get(9)?;
    (fields[0].bytes().all(|byte| byte == b'0') && fields[1] == "00" && device != "lo")
        .then(|| device.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let line = "wan0\t00000000\t0119D85D\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(default_v4(line).as_deref(), Some("wan0"));
        assert_eq!(default_v4("lan0\t0000140A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"), None);
        let zero = "0".repeat(32);
        let v6 =
            |device: &str| format!("{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 {device}");
        assert_eq!(default_v6(&v6("wan0")).as_deref(), Some("wan0"));
        assert_eq!(default_v6(&v6("lo")), None);
        assert_eq!(default_v6("short"), None);
    }

    #[test]
    fn loopback_is_ethernet_and_virtual() {
        let lo = Interface::find("lo").unwrap();
        assert_eq!(lo.link().unwrap(), Link::Ethernet);
        assert!(lo.against_native_xdp().is_some());
        let error = Interface::find("no/such").unwrap_err().to_string();
        assert!(error.contains("no/such") && error.contains("lo"), "{error}");
    }
}
