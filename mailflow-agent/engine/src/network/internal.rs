//! Internal networks: longest-prefix match of addresses against the configured lists.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};

use super::{
    range_table::{AddressSpan, RangeTable},
    role::AssetRole,
    special_use::{SpecialUse, special_use},
};

/// Line of a network list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Prefix, with host bits clear.
    pub net: IpNet,
    /// True if the line excludes its prefix (`!10.9.0.0/16`).
    pub exclude: bool,
    /// Line as written, for evidence.
    pub line: String,
    /// Configured group of the network.
    pub group: Option<String>,
    /// Role of the network's hosts.
    pub role: Option<AssetRole>,
    /// File and line of the entry.
    pub origin: Option<NetworkOrigin>,
}

impl Network {
    /// Returns an internal network without group and role.
    pub fn new(net: IpNet, line: impl Into<String>) -> Self {
        Self { net, exclude: false, line: line.into(), group: None, role: None, origin: None }
    }
}

/// Location of an entry in a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetworkOrigin {
    /// File name as configured.
    pub file: Arc<str>,
    /// Line number, from 1.
    pub line: usize,
}

impl fmt::Display for NetworkOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// List of networks. The longest match decides; of equal prefixes, the later line. Clones share the list.
///
/// A network without a group or role inherits it from the nearest enclosing network. An excluded network ends the
/// inheritance: networks inside it inherit nothing from outside.
#[derive(Clone, Debug, Default)]
pub struct Networks(Arc<NetworkIndex>);

#[derive(Debug, Default)]
struct NetworkIndex {
    /// Networks by line number. A line number fits into 32 bits, as memory would end before.
    networks: Vec<Network>,
    v4: RangeTable<u32>,
    v6: RangeTable<u128>,
}

impl Networks {
    /// Returns the list of these lines. An IPv4-mapped prefix stands for its IPv4 prefix.
    pub fn new(mut networks: Vec<Network>) -> Self {
        inherit(&mut networks);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (line, network) in networks.iter().enumerate() {
            let line = (!network.exclude).then_some(line);
            match canonical(network.net) {
                IpNet::V4(net) => {
                    let [first, last] = [net.network(), net.broadcast()].map(|ip| u128::from(ip.to_bits()));
                    v4.push(AddressSpan { first, last, line });
                }
                IpNet::V6(net) => {
                    let [first, last] = [net.network(), net.broadcast()].map(Ipv6Addr::to_bits);
                    v6.push(AddressSpan { first, last, line });
                }
            }
        }
        // A range behind the last IPv4 address has no 32-bit start, and contains no address.
        let v4 = RangeTable::new(v4, |start| u32::try_from(start).ok());
        Self(Arc::new(NetworkIndex { networks, v4, v6: RangeTable::new(v6, Some) }))
    }

    /// Returns the network that makes `ip` internal: the longest match, unless that excludes.
    pub fn find(&self, ip: IpAddr) -> Option<&Network> {
        self.0.networks.get(self.line(ip)?)
    }

    fn line(&self, ip: IpAddr) -> Option<usize> {
        match ip.to_canonical() {
            IpAddr::V4(v4) => self.0.v4.find(v4.to_bits()),
            IpAddr::V6(v6) => self.0.v6.find(v6.to_bits()),
        }
    }

    /// Returns true if both share one list. Equal lists that are not shared return false.
    pub fn is_same_list(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns all lines, with inherited groups and roles.
    pub fn networks(&self) -> &[Network] {
        &self.0.networks
    }

    /// Returns true if the network of an interface is neither internal nor omitted on purpose: no line excludes it,
    /// and no line lists a part of it.
    pub fn is_unlisted(&self, prefix: &IpNet) -> bool {
        let mut lines = self.networks().iter();
        let is_intended =
            |line: &Network| prefix.contains(&line.net) || line.exclude && line.net.contains(prefix);
        self.find(prefix.addr()).is_none() && !lines.any(is_intended)
    }

    /// Returns the groups of the internal networks.
    pub fn groups(&self) -> BTreeSet<&str> {
        let internal = self.networks().iter().filter(|network| !network.exclude);
        internal.filter_map(|network| network.group.as_deref()).collect()
    }

    /// Resolves `ip`. The internal list takes precedence over special use.
    pub fn resolve(&self, ip: IpAddr) -> ResolvedAddress<'_> {
        self.resolve_line(ip).0
    }

    /// Resolves `ip`, and returns the line number that makes it internal, from 0.
    pub(super) fn resolve_line(&self, ip: IpAddr) -> (ResolvedAddress<'_>, Option<usize>) {
        let ip = ip.to_canonical();
        let line = self.line(ip);
        let network = line.and_then(|line| self.0.networks.get(line));
        let scope = match network {
            Some(_) => AddressScope::Internal,
            None => special_use(ip).map_or(AddressScope::Internet, AddressScope::Special),
        };
        (ResolvedAddress { ip, scope, network }, line)
    }

    /// Returns the scope of `ip`.
    pub fn scope(&self, ip: IpAddr) -> AddressScope {
        self.resolve(ip).scope
    }
}

/// Address with its scope and network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedAddress<'a> {
    /// Address; an IPv4-mapped one as its IPv4 address.
    pub ip: IpAddr,
    /// Scope of the address.
    pub scope: AddressScope,
    /// Line that makes the address internal.
    pub network: Option<&'a Network>,
}

/// Scope of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressScope {
    /// In the internal networks.
    Internal,
    /// Special-use address that is not internal.
    Special(&'static SpecialUse),
    /// Any other address.
    Internet,
}

/// Returns the canonical form of a prefix: an IPv4-mapped one as its IPv4 prefix.
pub fn canonical(net: IpNet) -> IpNet {
    match (net, net.network().to_canonical()) {
        // An IPv4-mapped network address with a prefix shorter than /96 covers more than IPv4.
        (IpNet::V6(v6), IpAddr::V4(network)) if v6.prefix_len() >= 96 => {
            Ipv4Net::new(network, v6.prefix_len() - 96).map_or(net, IpNet::V4)
        }
        _ => net,
    }
}

/// Copies groups and roles to enclosed networks without them.
fn inherit(networks: &mut [Network]) {
    let mut order: Vec<(IpNet, usize)> =
        networks.iter().enumerate().map(|(line, network)| (canonical(network.net), line)).collect();
    // By address, shorter prefixes first: an enclosing network precedes the enclosed one.
    order.sort_unstable();
    let mut enclosing: Vec<(IpNet, usize)> = Vec::new();
    for (net, line) in order {
        // A later line replaces an earlier one of the same prefix.
        while enclosing.pop_if(|(outer, _)| *outer == net || !outer.contains(&net)).is_some() {}
        if let Some((_, outer)) = enclosing.last()
            && let Ok([outer, inner]) = networks.get_disjoint_mut([*outer, line])
            && !outer.exclude
            && !inner.exclude
        {
            if inner.group.is_none() {
                inner.group.clone_from(&outer.group);
            }
            inner.role = inner.role.or(outer.role);
        }
        enclosing.push((net, line));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(line: &str) -> Network {
        let net: IpNet = line.trim_start_matches('!').parse().unwrap();
        Network { exclude: line.starts_with('!'), ..Network::new(net, line) }
    }

    fn found<'a>(networks: &'a Networks, ip: &str) -> Option<&'a str> {
        networks.find(ip.parse().unwrap()).map(|network| network.line.as_str())
    }

    #[test]
    fn a_network_is_unlisted_unless_internal_or_omitted_on_purpose() {
        for (lines, prefix, missed) in [
            (&["10.0.0.0/8"][..], "2001:db8:1::/64", true),
            (&["10.0.0.0/8", "2001:db8::/32"], "2001:db8:1::/64", false),
            (&["10.0.0.0/8"], "10.1.0.0/16", false),
            (&["10.0.0.0/8"], "192.0.2.0/24", true),
            (&["10.0.0.0/8", "!10.9.0.0/16"], "10.9.0.0/24", false),
            (&["10.0.0.0/8", "192.0.2.16/28"], "192.0.2.0/24", false),
            (&["10.0.0.0/8"], "203.0.113.7/32", true),
        ] {
            let networks = Networks::new(lines.iter().map(|line| network(line)).collect());
            assert_eq!(networks.is_unlisted(&prefix.parse().unwrap()), missed, "{lines:?} {prefix}");
        }
    }

    #[test]
    fn the_longest_match_decides_and_may_exclude() {
        let networks = Networks::new(
            ["10.0.0.0/8", "!10.9.0.0/16", "10.9.8.0/24", "fd00::/8", "!fd00:1::/32"].map(network).to_vec(),
        );
        assert_eq!(found(&networks, "10.8.255.255"), Some("10.0.0.0/8"));
        assert_eq!(found(&networks, "10.9.0.0"), None);
        assert_eq!(found(&networks, "10.9.8.255"), Some("10.9.8.0/24"));
        assert_eq!(found(&networks, "10.9.9.0"), None);
        assert_eq!(found(&networks, "10.10.0.0"), Some("10.0.0.0/8"));
        assert_eq!(found(&networks, "11.0.0.0"), None);
        assert_eq!(found(&networks, "::ffff:10.1.2.3"), Some("10.0.0.0/8"));
        assert_eq!(found(&networks, "fd00::1"), Some("fd00::/8"));
        assert_eq!(found(&networks, "fd00:1::1"), None);
    }

    #[test]
    fn whole_families_and_mapped_prefixes() {
        let networks = Networks::new(["0.0.0.0/0", "::/0", "::ffff:192.168.0.0/112"].map(network).to_vec());
        assert_eq!(found(&networks, "255.255.255.255"), Some("0.0.0.0/0"));
        assert_eq!(found(&networks, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some("::/0"));
        assert_eq!(found(&networks, "192.168.3.4"), Some("::ffff:192.168.0.0/112"));
        assert_eq!(Networks::default().find(IpAddr::V6(Ipv6Addr::LOCALHOST)), None);
    }

    #[test]
    fn internal_goes_before_special_use() {
        let networks = Networks::new(vec![network("198.18.0.0/24")]);
        let scope = |ip: &str| networks.scope(ip.parse().unwrap());
        assert_eq!(scope("198.18.0.7"), AddressScope::Internal);
        assert!(
            matches!(scope("198.18.1.7"), AddressScope::Special(special) if special.name == "benchmarking")
        );
        assert_eq!(scope("9.9.9.9"), AddressScope::Internet);
        assert_eq!(scope("10.0.0.1"), AddressScope::Internet, "a neighbour's");
    }

    #[test]
    fn groups_and_roles_are_inherited_up_to_an_exclusion() {
        let of = |line: &str, group: &str, role| Network {
            group: (!group.is_empty()).then(|| group.to_owned()),
            role,
            ..network(line)
        };
        let networks = Networks::new(vec![
            of("10.0.0.1/32", "", Some(AssetRole::Mta)),
            of("10.0.0.0/8", "corp", Some(AssetRole::Workstation)),
            of("10.0.0.0/24", "lab", None),
            of("!10.9.0.0/16", "", None),
            of("10.9.1.0/24", "", None),
            of("10.8.0.0/16", "old", Some(AssetRole::Guest)),
            of("10.8.0.0/16", "", None),
            of("10.8.1.0/24", "", None),
            of("11.0.0.0/8", "", None),
        ]);
        let found = |ip: &str| {
            let network = networks.find(ip.parse().unwrap()).unwrap();
            (network.group.as_deref(), network.role)
        };
        assert_eq!(found("10.1.1.1"), (Some("corp"), Some(AssetRole::Workstation)));
        assert_eq!(found("10.0.0.2"), (Some("lab"), Some(AssetRole::Workstation)));
        assert_eq!(found("10.0.0.1"), (Some("lab"), Some(AssetRole::Mta)), "each by itself");
        assert_eq!(found("10.9.1.1"), (None, None), "an exclusion ends it");
        assert_eq!(found("10.8.0.1"), (Some("corp"), Some(AssetRole::Workstation)), "the later line");
        assert_eq!(found("10.8.1.1"), (Some("corp"), Some(AssetRole::Workstation)));
        assert_eq!(found("11.1.1.1"), (None, None), "a neighbour is not around it");
        assert_eq!(networks.groups(), BTreeSet::from(["corp", "lab", "old"]));
    }

    /// Returns the result of a linear search: the longest match, with the group and role of the enclosing lines.
    fn walked(lines: &[Network], ip: IpAddr) -> Option<Network> {
        let mut enclosing: Vec<&Network> = lines.iter().filter(|line| line.net.contains(&ip)).collect();
        // The sort is stable: of equal prefixes, the later line stays the later.
        enclosing.sort_by_key(|line| line.net.prefix_len());
        let mut kept: Vec<&Network> = Vec::new();
        for line in enclosing {
            kept.retain(|other| other.net != line.net);
            kept.push(line);
        }
        let from = kept.iter().rposition(|line| line.exclude).map_or(0, |at| at + 1);
        let inside = &kept[from..];
        let mut found = (*inside.last()?).clone();
        found.group = inside.iter().rev().find_map(|line| line.group.clone());
        found.role = inside.iter().rev().find_map(|line| line.role);
        Some(found)
    }

    /// Returns lines within 256 addresses of each family, so that they nest and repeat.
    fn lines() -> impl Strategy<Value = Vec<Network>> {
        let group = prop::option::weighted(0.4, prop::sample::select(vec!["a", "b", "c"]));
        let role = prop::option::weighted(0.4, prop::sample::select(AssetRole::ALL.to_vec()));
        let line = (any::<bool>(), 0u8..64, 0u8..=9, prop::bool::weighted(0.2), group, role);
        prop::collection::vec(line, 0..24).prop_map(|lines| {
            let line = |(v6, base, bits, exclude, group, role): (_, u8, u8, _, Option<&str>, _)| {
                let host = base * 4;
                let net = if v6 {
                    format!("fd00::{host:x}/{}", 128 - bits)
                } else {
                    format!("10.0.0.{host}/{}", 32 - bits)
                };
                let net = net.parse::<IpNet>().unwrap().trunc();
                let group = group.map(str::to_owned);
                Network { exclude, group, role, ..Network::new(net, net.to_string()) }
            };
            lines.into_iter().map(line).collect()
        })
    }

    proptest! {
        #[test]
        fn lookups_equal_a_linear_search(lines in lines()) {
            let networks = Networks::new(lines.clone());
            for host in 0..300u32 {
                let v4 = IpAddr::V4((0x0a00_0000 + host).into());
                let v6 = IpAddr::V6((0xfd00_u128 << 112 | u128::from(host)).into());
                for ip in [v4, v6] {
                    prop_assert_eq!(networks.find(ip).cloned(), walked(&lines, ip), "{}", ip);
                }
            }
        }
    }
}
