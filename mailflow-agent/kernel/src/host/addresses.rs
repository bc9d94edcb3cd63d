//! Addresses of the machine, and networks behind its `lan` interfaces.

use std::{collections::HashSet, io, net::IpAddr};

use ipnet::IpNet;

use super::{interface, netlink};

/// Network behind an interface in the `lan` role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsidePrefix {
    /// Name of the interface in the configuration.
    pub interface: String,
    /// Address of the machine in that network.
    pub local: IpAddr,
    /// Network; on a point-to-point link the address of the other end.
    pub prefix: IpNet,
}

/// Addresses of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Addresses of the machine.
    pub own_addresses: HashSet<IpAddr>,
    /// Networks behind `lan` interfaces, each once.
    pub inside: Vec<InsidePrefix>,
    /// `lan` interfaces with a default route, which look like the outside.
    pub outward_interfaces: Vec<String>,
    /// `inside`, and the networks behind the interfaces of `outward_interfaces`.
    all: Vec<InsidePrefix>,
}

/// Reads the addresses. `inside` are the indexes and names of the `lan` interfaces. If the addresses equal
/// those of `before`, the default routes are taken from it: with all routes of the Internet they take a
/// second to list.
pub(crate) fn read<'a>(
    inside: impl Iterator<Item = (u32, &'a str)>,
    before: Option<&Addresses>,
) -> io::Result<Addresses> {
    let addresses = netlink::addresses()?;
    let own_addresses = addresses.iter().map(|address| address.local).collect();
    let (mut all, mut devices): (Vec<InsidePrefix>, _) = (Vec::new(), Vec::new());
    for (device, name) in inside {
        devices.push((device, name));
        for address in addresses.iter().filter(|address| address.device == device && address.global) {
            let (network, bits) = address.prefix;
            let Ok(prefix) = IpNet::new(network, bits) else { continue };
            // A prefix of one address, which is the machine's own, has no clients behind it.
            let alone = bits == prefix.max_prefix_len() && network == address.local;
            if alone || is_link_local(network) {
                continue;
            }
            let prefix = prefix.trunc();
            if !all.iter().any(|known| (known.interface.as_str(), known.prefix) == (name, prefix)) {
                all.push(InsidePrefix { interface: name.to_owned(), local: address.local, prefix });
            }
        }
    }
    let outward_interfaces: Vec<String> = match before.filter(|before| before.all == all) {
        Some(before) => before.outward_interfaces.clone(),
        None if devices.is_empty() => Vec::new(),
        None => {
            let defaults = interface::default_route_devices();
            let outward_interfaces = devices.iter().filter(|(device, _)| defaults.contains(device));
            outward_interfaces.map(|(_, name)| (*name).to_owned()).collect()
        }
    };
    // Behind an interface with a default route is the Internet, which no list of networks covers.
    let inside = all.iter().filter(|found| !outward_interfaces.contains(&found.interface)).cloned().collect();
    Ok(Addresses { own_addresses, inside, outward_interfaces, all })
}

/// Addresses that no router forwards (RFC 3927, RFC 4291).
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::device::Device,
        testing::{in_namespace, run},
    };

    #[test]
    fn only_networks_behind_lan_interfaces_are_found() {
        in_namespace(|| {
            for name in ["lan0", "wan0", "ppp0"] {
                run(&format!("ip link add {name} type veth peer name p{name}"));
                run(&format!("ip link set {name} up"));
            }
            run("ip address add 10.20.0.1/24 dev lan0");
            run("ip address add 169.254.7.1/16 dev lan0");
            run("ip address add 192.0.2.77/32 dev lan0");
            run("ip -6 address add 2001:db8:1::1/64 dev lan0 nodad");
            run("ip -6 address add 2001:db8:1::2/64 dev lan0 nodad");
            run("ip address add 192.0.2.1 peer 203.0.113.7 dev ppp0");
            run("ip address add 198.51.100.2/24 dev wan0");
            run("ip route add default dev wan0");
            let devices = ["lan0", "wan0", "ppp0"].map(|name| (Device::index_of(name).unwrap(), name));
            let found = read(devices.into_iter(), None).unwrap();
            let inside: Vec<_> =
                found.inside.iter().map(|found| format!("{} {}", found.interface, found.prefix)).collect();
            assert_eq!(inside, ["lan0 10.20.0.0/24", "lan0 2001:db8:1::/64", "ppp0 203.0.113.7/32"]);
            assert_eq!(found.outward_interfaces, ["wan0"]);
            assert_eq!(read(devices.into_iter(), Some(&found)).unwrap(), found);
            assert!(found.own_addresses.contains(&"198.51.100.2".parse().unwrap()), "{found:?}");
        });
    }
}
