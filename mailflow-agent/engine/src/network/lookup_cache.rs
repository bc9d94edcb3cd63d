//! Direct-mapped cache of resolved addresses. The flows of a batch share few endpoints.

use std::net::IpAddr;

use mailflow_common::Address;

use super::{
    endpoints::Endpoints,
    internal::{AddressScope, Networks, ResolvedAddress},
};
use crate::flow::Flow;

/// Number of cache entries, as a power of two.
const ENTRIES_LOG2: u32 = 6;

/// Cache of resolved addresses, for one list of internal networks at a time.
#[derive(Debug, Default)]
pub(crate) struct LookupCache {
    internal: Networks,
    /// Entries by the hash of their address. A new entry replaces the previous one of its index.
    entries: Box<[Option<CachedLookup>]>,
}

/// [`ResolvedAddress`] without a reference to the list.
#[derive(Clone, Copy, Debug)]
struct CachedLookup {
    address: Address,
    ip: IpAddr,
    scope: AddressScope,
    line: Option<usize>,
}

impl LookupCache {
    /// Returns the resolved endpoints of a flow. A new list empties the cache.
    pub(crate) fn endpoints<'a>(&mut self, flow: &Flow, internal: &'a Networks) -> Endpoints<'a> {
        if self.entries.is_empty() || !self.internal.is_same_list(internal) {
            *self = Self { internal: internal.clone(), entries: vec![None; 1 << ENTRIES_LOG2].into() };
        }
        let source = self.resolve(flow.key.client, internal);
        Endpoints { source, destination: self.resolve(flow.key.server, internal) }
    }

    #[inline]
    fn resolve<'a>(&mut self, address: Address, internal: &'a Networks) -> ResolvedAddress<'a> {
        let entry = &mut self.entries[entry_index(address)];
        let cached = match entry {
            Some(cached) if cached.address == address => cached,
            _ => entry.insert(CachedLookup::of(address, internal)),
        };
        let network = cached.line.and_then(|line| internal.networks().get(line));
        ResolvedAddress { ip: cached.ip, scope: cached.scope, network }
    }
}

impl CachedLookup {
    #[cold]
    fn of(address: Address, internal: &Networks) -> Self {
        let (ResolvedAddress { ip, scope, .. }, line) = internal.resolve_line(address.ip());
        Self { address, ip, scope, line }
    }
}

/// Returns the index of an address (multiplicative hash). Adjacent addresses have different indices.
fn entry_index(address: Address) -> usize {
    let [high, low] = address.halves();
    ((high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - ENTRIES_LOG2)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn cached_results_equal_those_of_the_list() {
        let one = fixture::settings().internal;
        let mut cache = LookupCache::default();
        let mut inside = 0;
        for internal in [one.clone(), Networks::default(), one] {
            // More endpoints than cache entries, in ascending and in descending order.
            for n in (0..1_000_u32).chain((0..1_000).rev()) {
                let client = format!("{}.0.{}.{}:4000", [10, 11][n as usize % 2], n / 250, n % 250);
                let flow = fixture::flow(&client, ["9.9.9.9:25", "127.0.0.1:25"][n as usize / 2 % 2]);
                let endpoints = cache.endpoints(&flow, &internal);
                assert_eq!(endpoints, Endpoints::of(&flow, &internal), "{client}");
                inside += usize::from(endpoints.source.network.is_some());
            }
        }
        assert_eq!(inside, 2_000, "half of them, by the list that has any");
    }
}
