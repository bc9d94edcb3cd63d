//! Where a flow lies in the flow table.
//!
//! The table is looked into for every packet of mail, and what that costs is the hash and the comparison of its
//! key. So the key is as short as IPv4 needs. What an IPv6 flow has beyond it lies beside its counters, and is
//! compared there.

use crate::{Address, FlowCounters, FlowKey, Scope};

/// Key of the flow table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// IPv4: the client's and the server's address. IPv6: the low half of the client's, hidden by a hash of
    /// what is in [`Rest`].
    ends: [u32; 2],
    /// The client's port in the high half, the server's in the low one.
    ports: u32,
    /// VLAN zone, protocol, IP version.
    scope: Scope,
}

/// What of an IPv6 flow's addresses is not in its [`Place`]: the high half of the client's, and the server's.
/// All zeros for IPv4.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest([u64; 3]);

/// Value of the flow table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The flow's counters.
    pub counters: FlowCounters,
    /// The rest of its addresses. Two flows of which only this differs have one place, of any two of IPv6
    /// one pair in 2^64: the second one is counted to its source, as if there were no room.
    pub rest: Rest,
}

const _: () = assert!(size_of::<Place>() == 16, "the flow table's key size");
const _: () = assert!(size_of::<Entry>() == 144, "the flow table's value size");

impl Place {
    /// The place of a flow. `seed` makes those of IPv6 a secret of this table's: nobody can choose addresses
    /// that share one.
    #[inline(always)]
    pub const fn of(key: &FlowKey, seed: &[u64; 2]) -> (Self, Rest) {
        if !key.scope.v6() {
            let ends = [key.client.last_word(), key.server.last_word()];
            return (Self::v4(ends, [key.client_port, key.server_port], key.scope), Rest([0; 3]));
        }
        let ports = (key.client_port as u32) << 16 | key.server_port as u32;
        let ([high, low], [first, second]) = (key.client.halves(), key.server.halves());
        let rest = Rest([high, first, second]);
        let hidden = low ^ rest.hash(seed);
        (Self { ends: [(hidden >> 32) as u32, hidden as u32], ports, scope: key.scope }, rest)
    }

    /// The place of an IPv4 flow: its ends' words as they lie in the packet, and their ports, client first.
    #[inline(always)]
    pub const fn v4(ends: [u32; 2], ports: [u16; 2], scope: Scope) -> Self {
        Self { ends, ports: (ports[0] as u32) << 16 | ports[1] as u32, scope }
    }

    /// The flow whose place this is, with the rest that its entry has.
    pub const fn flow(&self, rest: &Rest, seed: &[u64; 2]) -> FlowKey {
        let (client, server) = if self.scope.v6() {
            let [high, first, second] = rest.0;
            let hidden = (self.ends[0] as u64) << 32 | self.ends[1] as u64;
            (Address::of_halves([high, hidden ^ rest.hash(seed)]), Address::of_halves([first, second]))
        } else {
            (Address::v4(self.ends[0]), Address::v4(self.ends[1]))
        };
        let (client_port, server_port) = ((self.ports >> 16) as u16, self.ports as u16);
        FlowKey { client, server, client_port, server_port, scope: self.scope }
    }

    /// Both halves as words, for hashing.
    #[inline(always)]
    pub const fn halves(&self) -> [u64; 2] {
        [
            (self.ends[0] as u64) << 32 | self.ends[1] as u64,
            (self.ports as u64) << 32 | self.scope.word() as u64,
        ]
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
    #[inline(always)]
    const fn hash(&self, seed: &[u64; 2]) -> u64 {
        // Multiplication spreads upwards only; the shift brings it back down.
        let [high, first, second] = self.0;
        let mut hash = (high ^ seed[0]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
        hash = (hash ^ first ^ seed[1]).wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^= hash >> 32;
        hash = (hash ^ second).wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^ hash >> 32
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
            let (place, rest) = Place::of(&key, &[3, 5]);
            assert_eq!(place.flow(&rest, &[3, 5]), key);
            assert_eq!(place.v6(), key.scope.v6());
        }
    }

    #[test]
    fn places_differ_in_every_part_of_a_flow_and_by_seed() {
        let one = key("2001:db8:1:2:3:4:5:6", "2001:db8:9::25");
        let place = |key: &FlowKey| Place::of(key, &[3, 5]).0;
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
        others.iter().for_each(|other| assert_ne!(place(other), place(&one), "{other:?}"));
        assert_ne!(Place::of(&one, &[4, 5]).0, place(&one));
    }
}
