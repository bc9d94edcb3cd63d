//! Interfaces: link type, driver and role.

use std::{fs, path::Path};

use super::{
    device::{self, Device},
    netlink,
};
use crate::{error::KernelError, options::Role};

/// Link type of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkType {
    /// Frames begin with an Ethernet header.
    Ethernet,
    /// Frames begin with the IP header.
    Ip,
}

/// A network interface.
#[derive(Clone, Debug)]
pub(crate) struct NetworkInterface {
    device: Device,
}

impl NetworkInterface {
    pub(crate) fn find(name: &str) -> Result<Self, KernelError> {
        match Device::find(name) {
            Some(device) => Ok(Self { device }),
            None => Err(KernelError::NoInterface {
                name: name.to_owned(),
                present: device::device_names().join(", "),
            }),
        }
    }

    pub(crate) fn of(device: Device) -> Self {
        Self { device }
    }

    pub(crate) fn name(&self) -> &str {
        &self.device.name
    }

    pub(crate) fn index(&self) -> u32 {
        self.device.index
    }

    /// Returns true if frames begin with an Ethernet header (include/uapi/linux/if_arp.h: Ethernet and
    /// loopback do; none, PPP and tunnels do not).
    pub(crate) fn link(&self) -> Result<LinkType, KernelError> {
        let kind = self.device.link_type();
        match kind.map_err(|source| KernelError::Machine {
            what: format!("link type of {}", self.name()),
            source,
        })? {
            1 | 772 => Ok(LinkType::Ethernet),
            65534 | 512 | 768 | 769 | 776 | 778 => Ok(LinkType::Ip),
            other => Err(KernelError::Attach {
                interface: self.name().to_owned(),
                reasons: format!("its link type {other} (ARPHRD) is neither Ethernet nor IP"),
            }),
        }
    }

    /// Returns the reason why native XDP would miss packets here, if it would.
    pub(crate) fn native_xdp_obstacle(&self) -> Option<String> {
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

    /// Returns true for a bridge whose packets pass the IP filters first: addresses may be translated and
    /// fragments reassembled before the program sees them (net.bridge.bridge-nf-call-iptables).
    pub(crate) fn is_filtered_bridge(&self) -> bool {
        let on = |file: &str| {
            let value = fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{file}"));
            value.is_ok_and(|value| value.trim() == "1")
        };
        self.device.driver().is_ok_and(|(driver, _)| driver == "bridge")
            && (on("iptables") || on("ip6tables"))
    }

    /// Returns true if the interface receives frames for other hosts.
    pub(super) fn is_promiscuous(&self) -> bool {
        self.device.is_promiscuous().unwrap_or(false)
    }

    /// Returns the automatic role, and its reason.
    pub(crate) fn automatic_role(&self) -> (Role, String) {
        let forwards = is_forwarding();
        let defaults = default_route_devices();
        if self.is_promiscuous() {
            return (Role::Mirror, "it is in promiscuous mode".to_owned());
        }
        if !forwards {
            return (Role::Host, "this machine forwards nothing".to_owned());
        }
        if defaults.contains(&self.index()) {
            return (Role::Host, "this machine's default route leaves here: behind source NAT only the machine's own mail can be told apart".to_owned());
        }
        match defaults.iter().find_map(|device| Device::name_of(*device)) {
            Some(route) => {
                (Role::Lan, format!("this machine forwards, and its default route leaves by {route}"))
            }
            None => (Role::Lan, "this machine forwards".to_owned()),
        }
    }
}

/// Returns true if this machine forwards packets, or packets of some interface. Linux takes every number but
/// 0 for yes.
pub(super) fn is_forwarding() -> bool {
    let on = |file: &Path| fs::read_to_string(file).is_ok_and(|value| value.trim() != "0");
    // `all` is what ip_forward is; `default` is only for interfaces to come.
    ["ipv4", "ipv6"].iter().any(|family| {
        let interfaces = fs::read_dir(format!("/proc/sys/net/{family}/conf")).into_iter().flatten().flatten();
        interfaces
            .map(|entry| entry.path())
            .any(|path| !path.ends_with("default") && on(&path.join("forwarding")))
    })
}

/// Returns the indexes of interfaces with a default route, IPv4 first. By index, as the configuration may use
/// another name.
pub(super) fn default_route_devices() -> Vec<u32> {
    let devices = netlink::default_routes().unwrap_or_default();
    devices.into_iter().filter(|device| Device::name_of(*device).is_some_and(|name| name != "lo")).collect()
}

/// Returns true if a default route leaves by an interface.
pub(crate) fn has_default_route(device: u32) -> bool {
    default_route_devices().contains(&device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_namespace, run};

    #[test]
    fn default_routes_are_found_in_every_table() {
        in_namespace(|| {
            for name in ["wan0", "wan1", "wan2", "lan0"] {
                run(&format!("ip link add {name} type veth peer name p{name}"));
                run(&format!("ip link set {name} up"));
            }
            run("ip address add 10.20.0.1/24 dev lan0");
            let default_routes =
                || default_route_devices().into_iter().filter_map(Device::name_of).collect::<Vec<_>>();
            assert_eq!(default_routes(), Vec::<String>::new());
            run("ip route add default nexthop dev wan0 nexthop dev wan1");
            run("ip route add default dev wan2 table 7");
            run("ip route add 10.0.0.0/8 dev lan0");
            let found = default_routes();
            for name in ["wan0", "wan1", "wan2"] {
                assert!(found.iter().any(|found| found == name), "{name}: {found:?}");
            }
            assert!(!found.iter().any(|found| found == "lan0"), "{found:?}");
            // By whichever of its names it is asked for.
            run("ip link property add dev wan0 altname uplink");
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            assert_eq!(NetworkInterface::find("uplink").unwrap().automatic_role().0, Role::Host);
            assert_eq!(NetworkInterface::find("lan0").unwrap().automatic_role().0, Role::Lan);
        });
    }

    #[test]
    fn forwarding_of_one_interface_is_forwarding() {
        in_namespace(|| {
            run("ip link add lan0 type veth peer name other");
            let set = |file: &str, value: &str| fs::write(format!("/proc/sys/net/{file}"), value).unwrap();
            set("ipv4/ip_forward", "0");
            set("ipv6/conf/all/forwarding", "0");
            assert!(!is_forwarding());
            set("ipv4/conf/lan0/forwarding", "1");
            assert!(is_forwarding());
            set("ipv4/conf/lan0/forwarding", "0");
            set("ipv4/ip_forward", "2");
            assert!(is_forwarding());
        });
    }

    #[test]
    fn loopback_is_ethernet_and_virtual() {
        let lo = NetworkInterface::find("lo").unwrap();
        assert_eq!(lo.link().unwrap(), LinkType::Ethernet);
        assert!(lo.native_xdp_obstacle().is_some());
        let error = NetworkInterface::find("no/such").unwrap_err().to_string();
        assert!(error.contains("no/such") && error.contains("lo"), "{error}");
    }
}
