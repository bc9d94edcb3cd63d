//! Two hosts and the links between them.
//!
//! ```text
//! client                      server
//! wire0 ------- veth -------- lan0
//! wire0.7 ----- 802.1Q ------ lan0.7
//! wire0.9.8 --- QinQ -------- lan0.9.8
//! wire1 -- virtio, QEMU's --- nic0
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use mailflow_test_support::lab::{Family, Ns};

/// End of the veth to which programs are attached.
pub(crate) const VETH: &str = "lan0";
/// Other end of the veth.
pub(crate) const PEER: &str = "wire0";
/// Virtio NIC to which programs are attached.
pub(crate) const VIRTIO: &str = "nic0";

/// Path from one host to the other.
pub(crate) struct Path {
    /// Name in reports.
    pub(crate) name: &'static str,
    /// Lower interface, to which programs are attached.
    pub(crate) interface: &'static str,
    /// Interfaces with the addresses: the server's and the client's.
    ends: [&'static str; 2],
    /// VLAN tags, outer first.
    pub(crate) tags: &'static [u16],
    /// Third byte of the addresses.
    net: u8,
}

/// Every path.
pub(crate) const PATHS: [Path; 4] = [
    Path { name: "veth", interface: VETH, ends: [VETH, PEER], tags: &[], net: 1 },
    Path { name: "802.1Q", interface: VETH, ends: ["lan0.7", "wire0.7"], tags: &[7], net: 2 },
    Path { name: "QinQ", interface: VETH, ends: ["lan0.9.8", "wire0.9.8"], tags: &[9, 8], net: 3 },
    Path { name: "virtio", interface: VIRTIO, ends: [VIRTIO, "wire1"], tags: &[], net: 4 },
];

/// Returns port 25 at one end of a path.
pub(crate) fn mail_server(path: &Path, family: Family, at: &Ns) -> SocketAddr {
    let host = if at.name() == "server" { 1 } else { 2 };
    SocketAddr::new(address(path, family, host), 25)
}

fn address(path: &Path, family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 20, path.net, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd20, 0, 0, path.net.into(), 0, 0, 0, host.into()).into(),
    }
}

/// Both hosts.
pub(crate) struct Network {
    pub(crate) client: Ns,
    pub(crate) server: Ns,
}

impl Network {
    /// Creates the hosts and connects them.
    pub(crate) fn build() -> Result<Self> {
        let (client, server) = (Ns::create("client".to_owned())?, Ns::create("server".to_owned())?);
        server.ip("link add lan0 type veth peer name wire0 netns client")?;
        for (nic, host, name) in [("eth0", &server, VIRTIO), ("eth1", &client, "wire1")] {
            let arguments = ["link", "set", nic, "netns", host.name(), "name", name];
            mailflow_test_support::lab::output(mailflow_test_support::lab::command("ip").args(arguments))?;
        }
        for (host, last, [below, nic]) in [(&server, 1, [VETH, VIRTIO]), (&client, 2, [PEER, "wire1"])] {
            // Without SACK all segments have headers of equal length.
            host.sysctl("ipv4/tcp_sack", "0")?;
            host.ip(&format!("link add link {below} name {below}.7 type vlan id 7"))?;
            host.ip(&format!("link add link {below} name {below}.9 type vlan protocol 802.1ad id 9"))?;
            host.ip(&format!("link add link {below}.9 name {below}.9.8 type vlan id 8"))?;
            // A veth accepts frames with one tag beyond its MTU, not with two.
            host.ip(&format!("link set {below}.9.8 mtu 1496"))?;
            // Tags must be in the frame: a veth would keep them in metadata, which XDP cannot read.
            host.run(&format!("ethtool -K {below} tx-vlan-hw-insert off tx-vlan-stag-hw-insert off"))?;
            for interface in
                [below, nic, &format!("{below}.7"), &format!("{below}.9"), &format!("{below}.9.8")]
            {
                host.ip(&format!("link set {interface} up"))?;
            }
            for path in &PATHS {
                let end = path.ends[last - 1];
                for (family, bits) in [(Family::V4, "24"), (Family::V6, "64 nodad")] {
                    let address = address(path, family, last as u8);
                    host.ip(&format!("address add {address}/{bits} dev {end}"))?;
                }
            }
        }
        Ok(Self { client, server })
    }
}
