//! Index of pairs of address sets: finds the first pair that contains both endpoints of a flow.
//!
//! An allow-list may have 100,000 entries, and each matching flow is looked up in it. The keys of a pair are the
//! combinations of the members of its two sets. An address has few keys: one for each prefix length that some pair
//! uses, its group, its role, and its scope. So the cost of a lookup depends on the number of kinds of
//! combinations, not on the number of pairs.

use std::collections::{HashMap, HashSet};

use crate::network::{
    AddressScope, AddressSet, Endpoints, Member, ResolvedAddress,
    address_set::{network_around, prefix_length},
};

/// Most pairs that are compared one by one.
const MAX_SCANNED_PAIRS: usize = 8;

/// Most keys of one pair. A pair with more is indexed by one endpoint only, with any other endpoint.
const MAX_KEYS_PER_PAIR: usize = 64;

/// Index of pairs by the members of their sets.
#[derive(Clone, Debug, Default)]
pub(super) struct PairIndex {
    /// Number of pairs, if they are compared one by one.
    scanned_pairs: usize,
    /// Pair numbers of each key, ascending.
    keys: HashMap<(Member, Member), Vec<u32>>,
    /// Kinds of the keys in the index.
    kinds: Vec<(KeyKind, KeyKind)>,
}

/// Kind of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum KeyKind {
    Any,
    Internal,
    External,
    Group,
    Role,
    /// Network, with address family (true for IPv6) and prefix length.
    Net(bool, u8),
}

impl PairIndex {
    /// Returns the index of these sources and destinations.
    pub(super) fn new<'a>(pairs: impl ExactSizeIterator<Item = (&'a AddressSet, &'a AddressSet)>) -> Self {
        if pairs.len() <= MAX_SCANNED_PAIRS {
            return Self { scanned_pairs: pairs.len(), ..Self::default() };
        }
        let (mut index, mut kinds) = (Self::default(), HashSet::new());
        for (number, (source, destination)) in (0..).zip(pairs) {
            let (mut sources, mut destinations) = (members(source), members(destination));
            if sources.len() * destinations.len() > MAX_KEYS_PER_PAIR {
                if sources.len() <= destinations.len() {
                    destinations = vec![Member::Any];
                } else {
                    sources = vec![Member::Any];
                }
            }
            for source in &sources {
                for destination in &destinations {
                    kinds.insert((KeyKind::of(source), KeyKind::of(destination)));
                    let numbers = index.keys.entry((source.clone(), destination.clone())).or_default();
                    if numbers.last() != Some(&number) {
                        numbers.push(number);
                    }
                }
            }
        }
        index.kinds = kinds.into_iter().collect();
        index
    }

    /// Returns the number of the first pair with keys of `endpoints` for which `holds` returns true.
    pub(super) fn first(&self, endpoints: &Endpoints<'_>, holds: impl Fn(usize) -> bool) -> Option<usize> {
        if self.kinds.is_empty() {
            return (0..self.scanned_pairs).find(|number| holds(*number));
        }
        let mut first: Option<u32> = None;
        for (source, destination) in &self.kinds {
            let Some(source) = source.key_of(&endpoints.source) else { continue };
            let Some(destination) = destination.key_of(&endpoints.destination) else { continue };
            let numbers = self.keys.get(&(source, destination)).map(Vec::as_slice).unwrap_or_default();
            let earlier = numbers.iter().take_while(|number| first.is_none_or(|first| **number < first));
            if let Some(found) = earlier.copied().find(|number| holds(*number as usize)) {
                first = Some(found);
            }
        }
        first.map(|number| number as usize)
    }
}

/// Returns members such that each address of the set matches one.
fn members(set: &AddressSet) -> Vec<Member> {
    let key = |member: &Member| match member {
        Member::Net(net) => Member::Net(net.trunc()),
        other => other.clone(),
    };
    if set.any().is_empty() { vec![Member::Any] } else { set.any().iter().map(key).collect() }
}

impl KeyKind {
    fn of(member: &Member) -> Self {
        match member {
            Member::Any => KeyKind::Any,
            Member::Internal => KeyKind::Internal,
            Member::External => KeyKind::External,
            Member::Group(_) => KeyKind::Group,
            Member::Role(_) => KeyKind::Role,
            Member::Net(net) => {
                let (v6, prefix_length) = prefix_length(net);
                KeyKind::Net(v6, prefix_length)
            }
        }
    }

    /// Returns the key of this kind that an address has.
    fn key_of(self, address: &ResolvedAddress<'_>) -> Option<Member> {
        match self {
            KeyKind::Any => Some(Member::Any),
            KeyKind::Internal => (address.scope == AddressScope::Internal).then_some(Member::Internal),
            KeyKind::External => (address.scope == AddressScope::Internet).then_some(Member::External),
            KeyKind::Group => address.network?.group.as_deref().map(|name| Member::Group(name.into())),
            KeyKind::Role => address.network?.role.map(Member::Role),
            KeyKind::Net(v6, _) if v6 != address.ip.is_ipv6() => None,
            KeyKind::Net(_, prefix_length) => network_around(address.ip, prefix_length).map(Member::Net),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::fixture;

    fn member() -> impl Strategy<Value = Member> {
        let net = (0..40u32, 24..33u8).prop_map(|(n, prefix_length)| {
            Member::Net(ipnet::IpNet::new(Ipv4Addr::from(0x0a00_0000 + n * 7).into(), prefix_length).unwrap())
        });
        let group = prop::sample::select(vec!["lan", "berlin"]).prop_map(|name| Member::Group(name.into()));
        prop_oneof![8 => net, 1 => group, 1 => Just(Member::Internal), 1 => Just(Member::External), 1 => Just(Member::Any)]
    }

    fn set() -> impl Strategy<Value = AddressSet> {
        let many = |max_asked| prop::collection::vec(member(), 0..max_asked);
        (prop_oneof![9 => many(3), 1 => many(30)], many(2)).prop_map(|(any, but)| AddressSet::new(any, but))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        /// The index finds the pair that a linear search finds first, also if `holds` rejects some pairs.
        #[test]
        fn the_index_finds_what_a_linear_search_finds(
            pairs in prop::collection::vec((set(), set()), 0..60), out in prop::collection::vec(any::<bool>(), 60),
        ) {
            let internal = fixture::internal();
            let index = PairIndex::new(pairs.iter().map(|(source, destination)| (source, destination)));
            for n in 0..300u32 {
                let ip = |n: u32| Ipv4Addr::from(if n.is_multiple_of(3) { 0x0909_0900 + n } else { 0x0a00_0000 + n }).into();
                let endpoints = Endpoints { source: internal.resolve(ip(n)), destination: internal.resolve(ip(n * 7)) };
                let holds = |number: usize| {
                    let (source, destination) = &pairs[number];
                    !out[number] && source.contains(&endpoints.source) && destination.contains(&endpoints.destination)
                };
                prop_assert_eq!(index.first(&endpoints, holds), (0..pairs.len()).find(|number| holds(*number)));
            }
        }
    }

    #[test]
    fn a_lookup_among_100_000_entries_tests_few() {
        let internal = fixture::internal();
        let net =
            |n: u32| AddressSet::from(Member::Net(ipnet::IpNet::new(Ipv4Addr::from(n).into(), 32).unwrap()));
        let ten = AddressSet::from(Member::Net("10.0.0.0/8".parse().unwrap()));
        let sets: Vec<(AddressSet, AddressSet)> = (0..100_000u32)
            .map(|n| match n % 3 {
                0 => (net(0x0a00_0000 + n), AddressSet::default()),
                1 => (ten.clone(), net(0x0900_0000 + n)),
                _ => (net(0x0a00_0001), net(0x0900_0000 + n)),
            })
            .collect();
        let index = PairIndex::new(sets.iter().map(|(source, destination)| (source, destination)));
        let asked = std::cell::Cell::new(0);
        let mut max_asked = 0;
        for n in 0..100_000u32 {
            let endpoints = Endpoints {
                source: internal.resolve(Ipv4Addr::from(0x0a00_0000 + if n % 3 == 2 { 1 } else { n }).into()),
                destination: internal.resolve(Ipv4Addr::from(0x0900_0000 + n).into()),
            };
            asked.set(0);
            let holds = |number: usize| {
                asked.set(asked.get() + 1);
                sets[number].0.contains(&endpoints.source) && sets[number].1.contains(&endpoints.destination)
            };
            assert_eq!(index.first(&endpoints, holds), Some(n as usize));
            max_asked = max_asked.max(asked.get());
        }
        assert!(max_asked <= 3, "{max_asked} entries were asked");
    }
}
