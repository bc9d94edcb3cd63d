//! Key of a flow in the buckets of the flow table.
//!
//! Each packet of mail is looked up, and most of the cost is the comparison of keys. So the first part of a
//! key has the length that IPv4 needs. The remainder of an IPv6 key is behind the counters.

use crate::{Address, FlowCounters, FlowKey, Scope};

/// First part of a flow key, which is the full key for IPv4.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowTableKey {
    /// IPv4: client and server address. IPv6: low half of the client address.
    ends: [u32; 2],
    /// Client port in the high half, server port in the low half.
    ports: u32,
    /// VLAN zone, protocol, IP version.
    scope: Scope,
}

/// Part of an IPv6 flow key that is not in its [`FlowTableKey`]: the high half of the client address, and the
/// server address. Zeros for IPv4.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyRemainder([u64; 3]);

/// Counters of a flow, with the remainder of its key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapEntry {
    /// Counters.
    pub counters: FlowCounters,
    /// Remainder of the key.
    pub remainder: KeyRemainder,
}

const _: () = assert!(size_of::<FlowTableKey>() == 16, "the size of a table key");
const _: () = assert!(size_of::<MapEntry>() == 152, "the size of a map entry");

impl FlowTableKey {
    /// Number of words to hash.
    pub(crate) const WORDS: usize = 4;

    /// Returns the table key of a flow, and the remainder of its key.
    #[inline(always)]
    pub const fn of(key: &FlowKey) -> (Self, KeyRemainder) {
        if !key.scope.v6() {
            let ends = [key.client.last_word(), key.server.last_word()];
            return (Self::v4(ends, [key.client_port, key.server_port], key.scope), KeyRemainder([0; 3]));
        }
        let ports = (key.client_port as u32) << 16 | key.server_port as u32;
        let ([high, low], [first, second]) = (key.client.halves(), key.server.halves());
        let place = Self { ends: [(low >> 32) as u32, low as u32], ports, scope: key.scope };
        (place, KeyRemainder([high, first, second]))
    }

    /// Returns the table key of an IPv4 flow: its addresses as they are in the packet, and its ports, client
    /// first.
    #[inline(always)]
    pub const fn v4(ends: [u32; 2], ports: [u16; 2], scope: Scope) -> Self {
        Self { ends, ports: (ports[0] as u32) << 16 | ports[1] as u32, scope }
    }

    /// Returns the flow key of this table key and remainder.
    #[inline(always)]
    pub const fn flow(&self, rest: &KeyRemainder) -> FlowKey {
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

    /// Returns the words to hash.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u32; Self::WORDS] {
        [self.ends[0], self.ends[1], self.ports, self.scope.word()]
    }

    /// Returns true if both are equal.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        (self.ends[0] ^ other.ends[0])
            | (self.ends[1] ^ other.ends[1])
            | (self.ports ^ other.ports)
            | (self.scope.word() ^ other.scope.word())
            == 0
    }

    /// Returns true for IPv6, where the remainder has to be compared too.
    #[inline(always)]
    pub const fn v6(&self) -> bool {
        self.scope.v6()
    }
}

impl KeyRemainder {
    /// Number of words to hash.
    pub(crate) const WORDS: usize = 6;

    /// Returns the words to hash.
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

    /// Returns true if both are equal.
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
            let (place, rest) = FlowTableKey::of(&key);
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
        others
            .iter()
            .for_each(|other| assert_ne!(FlowTableKey::of(other), FlowTableKey::of(&one), "{other:?}"));
    }
}
