//! A flow's key as the sets of the flow table hold it.
//!
//! Every packet of mail is looked up, and the cost of that is the comparison of its key. So the first part of a key is
//! as short as IPv4 needs. The rest of an IPv6 key follows the counters, and is compared there.

use crate::{Address, FlowCounters, FlowKey, Scope};

/// The part of a flow's key that is compared first, which is all there is of an IPv4 flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// IPv4: the client's and the server's address. IPv6: the low half of the client's.
    ends: [u32; 2],
    /// The client's port in the high half, the server's in the low one.
    ports: u32,
    /// VLAN zone, protocol, IP version.
    scope: Scope,
}

/// The part of an IPv6 flow's addresses that is not in its [`Place`]: the high half of the client's, and the server's.
/// All zeros for IPv4.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest([u64; 3]);

/// A flow's counters in a set, with the rest of its key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The flow's counters.
    pub counters: FlowCounters,
    /// The rest of its addresses.
    pub rest: Rest,
}

const _: () = assert!(size_of::<Place>() == 16, "the size of a flow's place in a set");
const _: () = assert!(size_of::<Entry>() == 152, "the size of a flow's entry in a set");

impl Place {
    /// Number of words that are hashed.
    pub(crate) const WORDS: usize = 4;

    /// The place of a flow, and the rest of its key.
    #[inline(always)]
    pub const fn of(key: &FlowKey) -> (Self, Rest) {
        if !key.scope.v6() {
            let ends = [key.client.last_word(), key.server.last_word()];
            return (Self::v4(ends, [key.client_port, key.server_port], key.scope), Rest([0; 3]));
        }
        let ports = (key.client_port as u32) << 16 | key.server_port as u32;
        let ([high, low], [first, second]) = (key.client.halves(), key.server.halves());
        let place = Self { ends: [(low >> 32) as u32, low as u32], ports, scope: key.scope };
        (place, Rest([high, first, second]))
    }

    /// The place of an IPv4 flow: its ends' words as they lie in the packet, and their ports, client first.
    #[inline(always)]
    pub const fn v4(ends: [u32; 2], ports: [u16; 2], scope: Scope) -> Self {
        Self { ends, ports: (ports[0] as u32) << 16 | ports[1] as u32, scope }
    }

    /// The key of the flow with this place and this rest.
    #[inline(always)]
    pub const fn flow(&self, rest: &Rest) -> FlowKey {
        let (client, server) = if self.scope.v6() {
            let [high, first, second] = rest.0;
            let low = (self.ends[0] as u64) << 32 | self.ends[1] as u64;
            (Address::of_halves([high, low]), Address::of_halves([first, second]))
        } else {
            (Address::v4(self.ends[0]), Address::v4(self.ends[1]))
        };
        let (client_port, server_port) = ((self.ports >> 16) as u16, self.ports as u16);
        FlowKey { client, server, client_port, server_port, scope: self.scope }
    }

    /// The words that are hashed.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u32; Self::WORDS] {
        [self.ends[0], self.ends[1], self.ports, self.scope.word()]
    }

    /// Whether both are the same.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        (self.ends[0] ^ other.ends[0])
            | (self.ends[1] ^ other.ends[1])
            | (self.ports ^ other.ports)
            | (self.scope.word() ^ other.scope.word())
            == 0
    }

    /// Whether it is one of IPv6, whose entry is the flow's only with the same rest.
    #[inline(always)]
    pub const fn v6(&self) -> bool {
        self.scope.v6()
    }
}

impl Rest {
    /// Number of words that are hashed.
    pub(crate) const WORDS: usize = 6;

    /// The words that are hashed.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u32; Self::WORDS] {
        let [high, first, second] = self.0;
        [
            (high >> 32) as u32,
            high as u32,
            (first >> 32) as u32,
            first as u32,
            (second >> 32) as u32,
            second as u32,
        ]
    }

    /// Whether both are the same.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1]) | (self.0[2] ^ other.0[2]) == 0
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;
    use crate::{PROTOCOL_TCP, Vlans};

    fn key(client: &str, server: &str) -> FlowKey {
        let [client, server] = [client, server].map(|end| end.parse::<IpAddr>().unwrap());
        let scope = Scope::new(Vlans::default().push(7), PROTOCOL_TCP, client.is_ipv6());
        let (client, server) = (client.into(), server.into());
        FlowKey { client, server, client_port: 40_000, server_port: 25, scope }
    }

    #[test]
    fn a_flow_comes_back_from_its_place() {
        for (client, server) in
            [("10.1.2.3", "198.51.100.4"), ("2001:db8:1:2:3:4:5:6", "2001:db8:9::25"), ("::", "::ffff:0:1")]
        {
            let key = key(client, server);
            let (place, rest) = Place::of(&key);
            assert_eq!(place.flow(&rest), key);
            assert_eq!(place.v6(), key.scope.v6());
        }
    }

    #[test]
    fn place_and_rest_differ_in_every_part_of_a_flow() {
        let one = key("2001:db8:1:2:3:4:5:6", "2001:db8:9::25");
        let others = [
            key("2001:db8:1:2:3:4:5:7", "2001:db8:9::25"),
            key("2001:db8:1:3:3:4:5:6", "2001:db8:9::25"),
            key("2001:db8:1:2:3:4:5:6", "2001:db8:9::26"),
            key("2001:db8:1:2:3:4:5:6", "2001:db9:9::25"),
            FlowKey { client_port: 40_001, ..one },
            FlowKey { server_port: 26, ..one },
            FlowKey { scope: one.scope.untagged(), ..one },
            one.reversed(),
        ];
        others.iter().for_each(|other| assert_ne!(Place::of(other), Place::of(&one), "{other:?}"));
    }
}
