//! Where the ends of flows are, remembered from one flow to the next: those that are looked at together have few.

use std::net::IpAddr;

use mailflow_common::Address;

use super::{
    endpoints::Endpoints,
    internal::{AddressScope, Networks, ResolvedAddress},
};
use crate::flow::Flow;

/// Ends that are remembered: 2 to this power.
const ENTRIES_LOG2: u32 = 6;

/// Where the ends of flows are, by one list of internal networks at a time.
#[derive(Debug, Default)]
pub(crate) struct LookupCache {
    internal: Networks,
    /// Each at a place that follows from its address; of two with one place the last.
    entries: Box<[Option<CachedLookup>]>,
}

/// A [`ResolvedAddress`] without the list.
#[derive(Clone, Copy, Debug)]
struct CachedLookup {
    address: Address,
    ip: IpAddr,
    scope: AddressScope,
    line: Option<usize>,
}

impl LookupCache {
    /// Both ends of a flow, by this list.
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

/// Neighbours have different ones.
fn entry_index(address: Address) -> usize {
    let [high, low] = address.halves();
    ((high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - ENTRIES_LOG2)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn it_tells_what_the_list_tells_whichever_that_is() {
        let one = fixture::settings().internal;
        let mut cache = LookupCache::default();
        let mut inside = 0;
        for internal in [one.clone(), Networks::default(), one] {
            // More ends than are remembered, forth and back.
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
