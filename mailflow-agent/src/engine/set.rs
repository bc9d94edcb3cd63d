//! Sets of addresses, as rules and allow-lists name them.

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use super::{
    asset_role::AssetRole,
    assets::{Place, Site},
};

/// Addresses: any of some members, without those of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Set {
    any: Vec<Member>,
    but: Vec<Member>,
}

/// What a set is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Member {
    /// Every address.
    Any,
    /// Inside the internal networks.
    Internal,
    /// Outside of them, and not a special-use address: the Internet.
    External,
    /// Internal, and of the group of this name.
    Group(Arc<str>),
    /// Internal, and of this role.
    Role(AssetRole),
    /// In this prefix, internal or not.
    Net(IpNet),
}

impl Set {
    /// Any of `any` (of all addresses, where that is empty), but none of `but`.
    pub fn new(any: Vec<Member>, but: Vec<Member>) -> Self {
        Self { any, but }
    }

    /// Whether an address is in the set.
    pub fn holds(&self, site: &Site<'_>) -> bool {
        let holds = |member: &Member| member.holds(site);
        (self.any.is_empty() || self.any.iter().any(holds)) && !self.but.iter().any(holds)
    }

    /// The members that it names, those it leaves out among them.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.any.iter().chain(&self.but)
    }
}

impl Member {
    fn holds(&self, site: &Site<'_>) -> bool {
        match self {
            Member::Any => true,
            Member::Internal => site.place == Place::Internal,
            Member::External => site.place == Place::Internet,
            Member::Group(name) => {
                site.network.is_some_and(|network| network.group.as_deref() == Some(name.as_ref()))
            }
            Member::Role(role) => site.network.is_some_and(|network| network.role == Some(*role)),
            Member::Net(net) => net.contains(&site.ip),
        }
    }
}

impl From<Member> for Set {
    fn from(member: Member) -> Self {
        Self::new(vec![member], Vec::new())
    }
}

/// As it is written in a configuration.
impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = self.any.iter().map(|member| ("", member));
        for (index, (not, member)) in any.chain(self.but.iter().map(|member| ("!", member))).enumerate() {
            write!(f, "{}{not}{member}", if index == 0 { "" } else { ", " })?;
        }
        if self.any.is_empty() && self.but.is_empty() { f.write_str("any") } else { Ok(()) }
    }
}

/// As it is written in a configuration.
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
    use super::{
        super::assets::{Network, Networks},
        *,
    };

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

    fn held(set: &Set) -> Vec<&'static str> {
        let networks = networks();
        ["10.0.0.1", "10.1.0.1", "fd00::1", "9.9.9.9", "127.0.0.1"]
            .into_iter()
            .filter(|ip| set.holds(&networks.locate(ip.parse().unwrap())))
            .collect()
    }

    #[test]
    fn each_member_holds_its_own() {
        let set = |member: Member| held(&Set::from(member));
        assert_eq!(set(Member::Any).len(), 5);
        assert_eq!(set(Member::Internal), ["10.0.0.1", "10.1.0.1", "fd00::1"]);
        assert_eq!(set(Member::External), ["9.9.9.9"], "loopback is not the Internet");
        assert_eq!(set(Member::Group("berlin".into())), ["10.0.0.1", "10.1.0.1"], "inherited");
        assert_eq!(set(Member::Role(AssetRole::Mta)), ["10.1.0.1"]);
        assert_eq!(set(Member::Net("9.0.0.0/8".parse().unwrap())), ["9.9.9.9"]);
    }

    #[test]
    fn what_is_left_out_is_left_out_of_all() {
        let mta = || vec![Member::Role(AssetRole::Mta)];
        let set = Set::new(vec![Member::Internal, Member::External], mta());
        assert_eq!(held(&set), ["10.0.0.1", "fd00::1", "9.9.9.9"]);
        assert_eq!(set.to_string(), "internal, external, !role:mta");
        let set = Set::new(Vec::new(), mta());
        assert_eq!(held(&set), ["10.0.0.1", "fd00::1", "9.9.9.9", "127.0.0.1"], "all but these");
        assert_eq!(set.to_string(), "!role:mta");
        assert_eq!((held(&Set::default()).len(), Set::default().to_string()), (5, "any".to_owned()));
    }
}
