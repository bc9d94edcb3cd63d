//! Special-use addresses, which are not part of the Internet.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Prefix of a special-use registry.
#[derive(Debug, PartialEq, Eq)]
pub struct SpecialUse {
    /// Prefix.
    pub net: IpNet,
    /// Name of the use.
    pub name: &'static str,
    /// Defining RFC, with its section.
    pub rfc: &'static str,
}

/// Returns the most specific entry that contains `ip`.
///
/// Private addresses (RFC 1918, RFC 6598, RFC 4193) are not in the table. The internal list decides which of them
/// are internal, and the others belong to neighbouring networks.
pub fn special_use(ip: IpAddr) -> Option<&'static SpecialUse> {
    let ip = ip.to_canonical();
    if !FIRST_BYTES[family(ip)][first_byte(ip)] {
        return None;
    }
    SPECIAL_USE.iter().find(|entry| entry.net.contains(&ip))
}

/// First bytes of the addresses in the table, by family. Most addresses have another first byte, and the server of
/// every record is looked up.
static FIRST_BYTES: LazyLock<[[bool; 256]; 2]> = LazyLock::new(|| {
    let mut first_bytes = [[false; 256]; 2];
    for SpecialUse { net, .. } in &SPECIAL_USE {
        first_bytes[family(net.addr())][first_byte(net.network())..=first_byte(net.broadcast())].fill(true);
    }
    first_bytes
});

fn family(ip: IpAddr) -> usize {
    usize::from(ip.is_ipv6())
}

fn first_byte(ip: IpAddr) -> usize {
    match ip {
        IpAddr::V4(v4) => usize::from(v4.octets()[0]),
        IpAddr::V6(v6) => usize::from(v6.octets()[0]),
    }
}

/// Entries of the IANA special-purpose and multicast registries. A prefix precedes the one that contains it.
///
/// Not included are prefixes that reach the Internet: translation (64:ff9b::/96, RFC 6052, and 64:ff9b:1::/48, RFC
/// 8215), Teredo (2001::/32), 6to4 (2002::/16, 192.88.99.0/24), anycast services (AS112, AMT), and all other
/// globally reachable ones.
static SPECIAL_USE: [SpecialUse; 24] = [
    v4([0, 0, 0, 0], 8, "this network", "RFC 791, 3.2"),
    v4([127, 0, 0, 0], 8, "loopback", "RFC 1122, 3.2.1.3"),
    v4([169, 254, 0, 0], 16, "link-local", "RFC 3927"),
    v4([192, 0, 0, 0], 24, "protocol assignments", "RFC 6890, 2.1"),
    v4([192, 0, 2, 0], 24, "documentation", "RFC 5737"),
    v4([198, 18, 0, 0], 15, "benchmarking", "RFC 2544, C.2.2"),
    v4([198, 51, 100, 0], 24, "documentation", "RFC 5737"),
    v4([203, 0, 113, 0], 24, "documentation", "RFC 5737"),
    v4([224, 0, 0, 0], 4, "multicast", "RFC 5771"),
    v4([255, 255, 255, 255], 32, "broadcast", "RFC 919, 7"),
    v4([240, 0, 0, 0], 4, "reserved", "RFC 1112, 4"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified", "RFC 4291, 2.5.2"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback", "RFC 4291, 2.5.3"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard-only", "RFC 6666"),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "dummy prefix", "RFC 9780"),
    v6([0x2001, 0x2, 0, 0, 0, 0, 0, 0], 48, "benchmarking", "RFC 5180, 8"),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, "ORCHID", "RFC 4843"),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, "ORCHIDv2", "RFC 7343"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation", "RFC 3849"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation", "RFC 9637"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing", "RFC 9602"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local", "RFC 4291, 2.5.6"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local", "RFC 3879"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast", "RFC 4291, 2.7"),
];

const fn v4(octets: [u8; 4], length: u8, name: &'static str, rfc: &'static str) -> SpecialUse {
    let [a, b, c, d] = octets;
    let net = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length));
    SpecialUse { net, name, rfc }
}

const fn v6(words: [u16; 8], length: u8, name: &'static str, rfc: &'static str) -> SpecialUse {
    let [a, b, c, d, e, f, g, h] = words;
    let net = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length));
    SpecialUse { net, name, rfc }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(ip: &str) -> Option<&'static str> {
        special_use(ip.parse().unwrap()).map(|entry| entry.name)
    }

    #[test]
    fn the_edges_of_every_prefix_are_in_and_their_neighbours_are_not() {
        for entry in &SPECIAL_USE {
            assert_eq!(entry.net, entry.net.trunc(), "{}: host bits", entry.net);
            assert!(special_use(entry.net.network()).is_some(), "{}", entry.net);
            assert!(special_use(entry.net.broadcast()).is_some(), "{}", entry.net);
        }
        let outside =
            ["1.0.0.0", "126.255.255.255", "169.253.255.255", "192.0.1.255", "192.0.3.0", "198.17.255.255"];
        let outside =
            outside.into_iter().chain(["198.20.0.0", "198.51.101.0", "203.0.114.0", "223.255.255.255"]);
        let outside =
            outside.chain(["::2", "2001:db7:ffff::1", "2001:db9::1", "3fff:1000::1", "fe7f::1", "2600::1"]);
        for ip in outside {
            assert_eq!(name(ip), None, "{ip}");
        }
    }

    #[test]
    fn the_internet_behind_a_translator_is_the_internet() {
        for ip in ["64:ff9b::909:909", "64:ff9b:1::909:909", "2001:0:1::1", "2002:909:909::1", "100:0:0:2::1"]
        {
            assert_eq!(name(ip), None, "{ip}");
        }
    }

    #[test]
    fn names_the_most_specific_use() {
        assert_eq!(name("255.255.255.255"), Some("broadcast"));
        assert_eq!(name("255.255.255.254"), Some("reserved"));
        assert_eq!(name("::ffff:127.0.0.1"), Some("loopback"));
        assert_eq!(name("2001:db8:1::25"), Some("documentation"));
    }

    #[test]
    fn private_addresses_are_left_to_the_internal_list() {
        for ip in ["10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "fd00::1"] {
            assert_eq!(name(ip), None, "{ip}");
        }
    }
}
