//! Where the ends of flows are, remembered from one flow to the next: those that are looked at together have few.

use std::net::IpAddr;

use mailflow_common::Address;

use super::{
    endpoints::Endpoints,
    internal::{AddressScope, Networks, ResolvedAddress},
};
use crate::flow::Flow;

/// Ends that are remembered: 2 to this power.
const POWER: u32 = 6;

/// Where the ends of flows are, by one list of internal networks at a time.
#[derive(Debug, Default)]
pub(crate) struct LookupCache {
    internal: Networks,
    /// Each at a place that follows from its address; of two with one place the last.
    known: Box<[Option<CachedLookup>]>,
}

/// A [`ResolvedAddress`] without the list.
#[derive(Clone, Copy, Debug)]
struct CachedLookup {
    address: Address,
    ip: IpAddr,
    place: AddressScope,
    line: Option<usize>,
}

impl LookupCache {
    /// Both ends of a flow, by this list.
    pub(crate) fn ends<'a>(&mut self, flow: &Flow, internal: &'a Networks) -> Endpoints<'a> {
        if self.known.is_empty() || !self.internal.is(internal) {
            *self = Self { internal: internal.clone(), known: vec![None; 1 << POWER].into() };
        }
        let source = self.locate(flow.key.client, internal);
        Endpoints { source, destination: self.locate(flow.key.server, internal) }
    }

    #[inline]
    fn locate<'a>(&mut self, address: Address, internal: &'a Networks) -> ResolvedAddress<'a> {
        let place = &mut self.known[place(address)];
        let known = match place {
            Some(known) if known.address == address => known,
            _ => place.insert(CachedLookup::of(address, internal)),
        };
        let network = known.line.and_then(|line| internal.networks().get(line));
        ResolvedAddress { ip: known.ip, place: known.place, network }
    }
}

impl CachedLookup {
    #[cold]
    fn of(address: Address, internal: &Networks) -> Self {
        let (ResolvedAddress { ip, place, .. }, line) = internal.locate_line(address.ip());
        Self { address, ip, place, line }
    }
}

/// Neighbours have different ones.
fn place(address: Address) -> usize {
    let [high, low] = address.halves();
    ((high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - POWER)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn it_tells_what_the_list_tells_whichever_that_is() {
        let one = fixture::settings().internal;
        let mut sites = LookupCache::default();
        let mut inside = 0;
        for internal in [one.clone(), Networks::default(), one] {
            // More ends than are remembered, forth and back.
            for n in (0..1_000_u32).chain((0..1_000).rev()) {
                let client = format!("{}.0.{}.{}:4000", [10, 11][n as usize % 2], n / 250, n % 250);
                let flow = fixture::flow(&client, ["9.9.9.9:25", "127.0.0.1:25"][n as usize / 2 % 2]);
                let ends = sites.ends(&flow, &internal);
                assert_eq!(ends, Endpoints::of(&flow, &internal), "{client}");
                inside += usize::from(ends.source.network.is_some());
            }
        }
        assert_eq!(inside, 2_000, "half of them, by the list that has any");
    }
}
