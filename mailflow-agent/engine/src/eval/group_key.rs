//! Group key: the value by which a rule groups flows.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{flow::Flow, network::ResolvedAddress, rule::GroupBy};

/// Client address, for IPv6 its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source(ipnet::IpNet);

impl Source {
    /// Returns the source of a client address; `v6_prefix` is the IPv6 prefix length, at most 128.
    pub fn of(client: IpAddr, v6_prefix: u8) -> Self {
        let length = if client.is_ipv4() { 32 } else { v6_prefix.min(128) };
        // `length` is in range for either address family.
        Self(ipnet::IpNet::new(client, length).map_or_else(|_| client.into(), |net| net.trunc()))
    }

    /// Returns the network of the source.
    pub fn network(&self) -> ipnet::IpNet {
        self.0
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// Value by which a rule groups flows. Ordered by kind, then by address or name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GroupKey {
    /// Client.
    Source(Source),
    /// Client and server. Boxed to keep the enum small: a table can hold a million keys.
    Pair(Box<(Source, IpAddr)>),
    /// Server.
    Destination(IpAddr),
    /// Group of internal networks; empty for clients without one.
    Group(Arc<str>),
    /// All groups of a rule, or of all rules, in an aggregate alert.
    Many,
}

impl GroupKey {
    /// Returns the group key of `flow`; `source` is its resolved client.
    pub(crate) fn of(by: GroupBy, flow: &Flow, source: &ResolvedAddress<'_>, v6_prefix: u8) -> Self {
        let client = || Source::of(flow.client(), v6_prefix);
        match by {
            GroupBy::Source => GroupKey::Source(client()),
            GroupBy::SourceAndDestination => GroupKey::Pair(Box::new((client(), flow.server()))),
            GroupBy::Destination => GroupKey::Destination(flow.server()),
            GroupBy::Group => GroupKey::Group(group(source)),
        }
    }

    /// Returns the group key of packets whose server is unknown, or `None` if the key needs the server.
    pub(crate) fn of_client(
        by: GroupBy,
        client: IpAddr,
        source: &ResolvedAddress<'_>,
        v6_prefix: u8,
    ) -> Option<Self> {
        match by {
            GroupBy::Source => Some(GroupKey::Source(Source::of(client, v6_prefix))),
            GroupBy::Group => Some(GroupKey::Group(group(source))),
            GroupBy::SourceAndDestination | GroupBy::Destination => None,
        }
    }

    /// Returns the client, if the key contains one.
    pub fn source(&self) -> Option<Source> {
        match self {
            GroupKey::Source(source) => Some(*source),
            GroupKey::Pair(pair) => Some(pair.0),
            GroupKey::Destination(_) | GroupKey::Group(_) | GroupKey::Many => None,
        }
    }

    /// Returns the server, if the key contains one.
    pub fn destination(&self) -> Option<IpAddr> {
        match self {
            GroupKey::Pair(pair) => Some(pair.1),
            GroupKey::Destination(ip) => Some(*ip),
            GroupKey::Source(_) | GroupKey::Group(_) | GroupKey::Many => None,
        }
    }

    /// Returns the group name, if the key is one.
    pub fn group(&self) -> Option<&str> {
        match self {
            GroupKey::Group(name) => Some(name),
            _ => None,
        }
    }
}

fn group(source: &ResolvedAddress<'_>) -> Arc<str> {
    source.network.and_then(|network| network.group.as_deref()).unwrap_or_default().into()
}

/// Text of the key in alerts: `10.0.0.1`, `10.0.0.1 -> 9.9.9.9`, `9.9.9.9`, `group offices`.
impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupKey::Source(source) => write!(f, "{source}"),
            GroupKey::Pair(pair) => write!(f, "{} -> {}", pair.0, pair.1),
            GroupKey::Many => f.write_str("many subjects"),
            GroupKey::Destination(ip) => write!(f, "{ip}"),
            GroupKey::Group(name) => write!(f, "group {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn each_grouping_has_its_own_key() {
        let internal = fixture::internal();
        let flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        let site = internal.resolve(flow.client());
        let named = |by| {
            let group_key = GroupKey::of(by, &flow, &site, 64);
            (group_key.to_string(), group_key.source().is_some(), group_key.destination().is_some())
        };
        assert_eq!(named(GroupBy::Source), ("10.0.0.1".to_owned(), true, false));
        assert_eq!(named(GroupBy::SourceAndDestination), ("10.0.0.1 -> 9.9.9.9".to_owned(), true, true));
        assert_eq!(named(GroupBy::Destination), ("9.9.9.9".to_owned(), false, true));
        assert_eq!(named(GroupBy::Group), ("group lan".to_owned(), false, false));
        assert!(size_of::<GroupKey>() <= 24, "there is one for each of a million sources");
    }

    #[test]
    fn overflow_has_keys_without_a_server() {
        let internal = fixture::internal();
        let client = "10.0.0.1".parse().unwrap();
        let known = |by| GroupKey::of_client(by, client, &internal.resolve(client), 64);
        assert_eq!(known(GroupBy::Source).unwrap().to_string(), "10.0.0.1");
        assert_eq!(known(GroupBy::Group).unwrap().to_string(), "group lan");
        assert_eq!((known(GroupBy::Destination), known(GroupBy::SourceAndDestination)), (None, None));
    }
}
