//! Addresses and wiring of the lab.
//!
//! ```text
//!  client                    gateway (source NAT)                     server
//!  10.20.0.2  eth0 ---- lan0 10.20.0.1 | 93.184.215.1 wan0 ---- eth0  93.184.215.25
//!  inside
//!  10.30.0.2  eth0 ---- lan1 10.30.0.1
//! ```
//!
//! The server has globally routable addresses because the rules do not count documentation ranges as
//! external. They exist only inside these namespaces, none of which has a route out of the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};

use super::command::command;
use super::ns::Ns;

/// IP version of an address of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// Network of the lab: a veth pair from the gateway to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Net {
    /// Watched network of the internal hosts: `lan0`.
    Lan,
    /// Second internal network: `lan1`.
    Inside,
    /// Internet side: `wan0`.
    Wan,
}

impl Net {
    /// Returns the gateway's interface on this network; the host's is `eth0`.
    pub(super) fn gateway_interface(self) -> &'static str {
        match self {
            Self::Lan => "lan0",
            Self::Inside => "lan1",
            Self::Wan => "wan0",
        }
    }

    /// Returns the address of the host with the last part `host` (1 is the gateway).
    pub(super) fn address(self, family: Family, host: u8) -> IpAddr {
        let (v4, v6) = match self {
            Self::Lan => ([10, 20, 0], [0xfd20, 0, 0, 0]),
            Self::Inside => ([10, 30, 0], [0xfd30, 0, 0, 0]),
            Self::Wan => ([93, 184, 215], [0x2a00, 0x1450, 0x4001, 0x0825]),
        };
        match family {
            Family::V4 => Ipv4Addr::new(v4[0], v4[1], v4[2], host).into(),
            Family::V6 => Ipv6Addr::new(v6[0], v6[1], v6[2], v6[3], 0, 0, 0, host.into()).into(),
        }
    }
}

/// Connects `host`'s `eth0` to the gateway, and sets addresses and routes. `hosts` are the last parts of the
/// host's addresses.
pub(super) fn connect(net: Net, gateway: &Ns, host: &Ns, hosts: std::ops::RangeInclusive<u8>) -> Result<()> {
    let port = net.gateway_interface();
    gateway.ip(&format!("link add {port} type veth peer name eth0 netns {}", host.name()))?;
    gateway.ip(&format!("link set {port} up"))?;
    host.ip("link set eth0 up")?;
    for (family, bits) in [(Family::V4, "24"), (Family::V6, "64 nodad")] {
        gateway.ip(&format!("address add {}/{bits} dev {port}", net.address(family, 1)))?;
        for last in hosts.clone() {
            host.ip(&format!("address add {}/{bits} dev eth0", net.address(family, last)))?;
        }
        // The server has a route to the internal networks, as an attacker outside has one.
        let version = if family == Family::V4 { "-4" } else { "-6" };
        host.ip(&format!("{version} route add default via {}", net.address(family, 1)))?;
    }
    Ok(())
}

/// Makes the gateway forward both families with source NAT.
pub(super) fn make_gateway(gateway: &Ns) -> Result<()> {
    gateway.sysctl("ipv4/ip_forward", "1")?;
    gateway.sysctl("ipv6/conf/all/forwarding", "1")?;
    let rules = "add table inet lab; \
        add chain inet lab postrouting { type nat hook postrouting priority srcnat; }; \
        add rule inet lab postrouting oifname wan0 masquerade";
    // One argument: nft receives the semicolons unchanged.
    let mut nft = command("ip");
    super::command::output(nft.args(["netns", "exec", gateway.name(), "nft", rules]))
        .context("source NAT on the gateway (`cargo xtask setup` installs nft)")?;
    Ok(())
}

/// Turns segmentation and receive offloads off at both ends of a network.
pub(super) fn offloads_off(net: Net, gateway: &Ns, host: &Ns) -> Result<()> {
    for (ns, port) in [(gateway, net.gateway_interface()), (host, "eth0")] {
        ns.run(&format!("ethtool -K {port} tso off gso off gro off tx off rx off"))?;
        let state = ns.run(&format!("ethtool -k {port}"))?;
        ensure!(state.contains("tcp-segmentation-offload: off"), "{port} keeps TSO on:\n{state}");
    }
    Ok(())
}
