//! Address sets of rules and allow-lists.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    internal::{AddressScope, ResolvedAddress},
    role::AssetRole,
};

/// Set of addresses: those in any of some members and in none of the excepted ones.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct AddressSet {
    // Shared, as each rule has the entries of the global allow-list.
    any: Arc<Members>,
    except: Arc<Members>,
}

/// Members in their configured order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
struct Members {
    all: Vec<Member>,
    /// Networks among the members, ascending, if there are at least [`MIN_INDEXED_NETWORKS`]; otherwise empty.
    #[serde(skip)]
    nets: Vec<IpNet>,
    /// Address family (true for IPv6) and prefix length of each network.
    #[serde(skip)]
    lengths: Vec<(bool, u8)>,
}

/// Number of networks from which on they are searched by prefix rather than compared one by one.
const MIN_INDEXED_NETWORKS: usize = 8;

/// Member of an address set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Member {
    /// Every address.
    Any,
    /// Address in the internal networks.
    Internal,
    /// Internet address: not internal, and not a special-use address.
    External,
    /// Internal address of the group of this name.
    Group(Arc<str>),
    /// Internal address of this role.
    Role(AssetRole),
    /// Address in this prefix, internal or not.
    Net(IpNet),
}

impl AddressSet {
    /// Returns the set of the addresses in `any` (all addresses if empty) and not in `except`.
    pub fn new(any: Vec<Member>, except: Vec<Member>) -> Self {
        Self { any: Members::new(any).into(), except: Members::new(except).into() }
    }

    /// Returns true if the set contains an address.
    pub fn contains(&self, address: &ResolvedAddress<'_>) -> bool {
        (self.any.all.is_empty() || self.any.contains(address)) && !self.except.contains(address)
    }

    /// Returns the members of which an address must match one; empty if every address matches.
    pub(crate) fn any(&self) -> &[Member] {
        &self.any.all
    }

    /// Returns all members, excepted ones included.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.any.all.iter().chain(&self.except.all)
    }
}

impl Members {
    fn new(all: Vec<Member>) -> Self {
        let net = |member: &Member| match member {
            Member::Net(net) => Some(net.trunc()),
            _ => None,
        };
        let mut nets: Vec<IpNet> = all.iter().filter_map(net).collect();
        if nets.len() < MIN_INDEXED_NETWORKS {
            return Self { all, ..Self::default() };
        }
        nets.sort_unstable();
        let mut lengths: Vec<_> = nets.iter().map(prefix_length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Self { all, nets, lengths }
    }

    /// Returns true if a member contains the address. Takes logarithmic time for many networks.
    fn contains(&self, address: &ResolvedAddress<'_>) -> bool {
        let searched = |member: &&Member| self.nets.is_empty() || !matches!(member, Member::Net(_));
        let network_around = |(v6, prefix_length): &(bool, u8)| {
            *v6 == address.ip.is_ipv6()
                && network_around(address.ip, *prefix_length)
                    .is_some_and(|net| self.nets.binary_search(&net).is_ok())
        };
        if self.nets.len() == self.all.len() {
            return self.lengths.iter().any(network_around);
        }
        self.all.iter().filter(searched).any(|member| member.contains(address))
            || self.lengths.iter().any(network_around)
    }
}

/// Returns true for an IPv6 network, and the prefix length.
pub(crate) fn prefix_length(net: &IpNet) -> (bool, u8) {
    (matches!(net, IpNet::V6(_)), net.prefix_len())
}

/// Returns the network of this prefix length that contains an address.
pub(crate) fn network_around(ip: IpAddr, prefix_length: u8) -> Option<IpNet> {
    IpNet::new(ip, prefix_length).ok().map(|net| net.trunc())
}

impl Member {
    fn contains(&self, address: &ResolvedAddress<'_>) -> bool {
        match self {
            Member::Any => true,
            Member::Internal => address.scope == AddressScope::Internal,
            Member::External => address.scope == AddressScope::Internet,
            Member::Group(name) => {
                address.network.is_some_and(|network| network.group.as_deref() == Some(name.as_ref()))
            }
            Member::Role(role) => address.network.is_some_and(|network| network.role == Some(*role)),
            Member::Net(net) => net.contains(&address.ip),
        }
    }
}

impl fmt::Debug for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Checkpoints of the rules contain this text. It keeps the type's first name, so that they stay valid.
        f.debug_struct("Set").field("any", &self.any).field("but", &self.except).finish()
    }
}

impl From<Member> for AddressSet {
    fn from(member: Member) -> Self {
        Self::new(vec![member], Vec::new())
    }
}

/// Text of the set in the configuration.
impl fmt::Display for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = self.any.all.iter().map(|member| ("", member));
        for (index, (not, member)) in
            any.chain(self.except.all.iter().map(|member| ("!", member))).enumerate()
        {
            write!(f, "{}{not}{member}", if index == 0 { "" } else { ", " })?;
        }
        if self.any.all.is_empty() && self.except.all.is_empty() { f.write_str("any") } else { Ok(()) }
    }
}

/// Text of the member in the configuration.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Any => f.write_str("any"),
            Member::Internal => f.write_str("internal"),
            Member::External => f.write_str("external"),
            Member::Group(name) => write!(f, "group:{name}"),
            Member::Role(role) => write!(f, "role:{}", role.name()),
            Member::Net(net) => write!(f, "{net}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::internal::{Network, Networks};

    fn networks() -> Networks {
        let line = |cidr: &str, group: Option<&str>, role| Network {
            group: group.map(str::to_owned),
            role,
            ..Network::new(cidr.trim_start_matches('!').parse().unwrap(), cidr)
        };
        Networks::new(vec![
            line("10.0.0.0/8", Some("berlin"), None),
            line("10.1.0.0/16", None, Some(AssetRole::Mta)),
            line("fd00::/8", None, None),
        ])
    }

    fn contained(set: &AddressSet) -> Vec<&'static str> {
        let networks = networks();
        ["10.0.0.1", "10.1.0.1", "fd00::1", "9.9.9.9", "127.0.0.1"]
            .into_iter()
            .filter(|ip| set.contains(&networks.resolve(ip.parse().unwrap())))
            .collect()
    }

    #[test]
    fn each_member_contains_its_addresses() {
        let set = |member: Member| contained(&AddressSet::from(member));
        assert_eq!(set(Member::Any).len(), 5);
        assert_eq!(set(Member::Internal), ["10.0.0.1", "10.1.0.1", "fd00::1"]);
        assert_eq!(set(Member::External), ["9.9.9.9"], "loopback is not the Internet");
        assert_eq!(set(Member::Group("berlin".into())), ["10.0.0.1", "10.1.0.1"], "inherited");
        assert_eq!(set(Member::Role(AssetRole::Mta)), ["10.1.0.1"]);
        assert_eq!(set(Member::Net("9.0.0.0/8".parse().unwrap())), ["9.9.9.9"]);
    }

    #[test]
    fn indexed_members_contain_what_each_member_contains() {
        let networks = networks();
        let nets = |from: u32| {
            (from..from + 3_000).map(|n| {
                let address = n.wrapping_mul(0x9e37_79b9);
                Member::Net(
                    IpNet::new(std::net::Ipv4Addr::from(address).into(), 12 + (n % 21) as u8).unwrap(),
                )
            })
        };
        let (any, except): (Vec<_>, Vec<_>) = (nets(0).collect(), nets(5_000).skip(2_900).collect());
        let any: Vec<Member> = any
            .into_iter()
            .chain([Member::Group("berlin".into()), Member::Net("fd00::/9".parse().unwrap())])
            .collect();
        let set = AddressSet::new(any.clone(), except.clone());
        let mut contained = 0;
        for n in 0..20_000_u32 {
            let ip = match n % 50 {
                0 => IpAddr::from(std::net::Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n) << 103)),
                _ => std::net::Ipv4Addr::from(n.wrapping_mul(0x85eb_ca6b)).into(),
            };
            let address = networks.resolve(ip);
            let holds = |members: &[Member]| members.iter().any(|member| member.contains(&address));
            assert_eq!(set.contains(&address), holds(&any) && !holds(&except), "{ip}");
            contained += u32::from(set.contains(&address));
        }
        assert!((1_000..19_000).contains(&contained), "{contained}");
    }

    #[test]
    fn excepted_members_are_in_no_set() {
        let mta = || vec![Member::Role(AssetRole::Mta)];
        let set = AddressSet::new(vec![Member::Internal, Member::External], mta());
        assert_eq!(contained(&set), ["10.0.0.1", "fd00::1", "9.9.9.9"]);
        assert_eq!(set.to_string(), "internal, external, !role:mta");
        let set = AddressSet::new(Vec::new(), mta());
        assert_eq!(contained(&set), ["10.0.0.1", "fd00::1", "9.9.9.9", "127.0.0.1"], "all but these");
        assert_eq!(set.to_string(), "!role:mta");
        assert_eq!(
            (contained(&AddressSet::default()).len(), AddressSet::default().to_string()),
            (5, "any".to_owned())
        );
    }
}
