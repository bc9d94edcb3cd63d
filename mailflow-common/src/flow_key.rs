//! The flow key: a 5-tuple with VLAN zone, client first.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IANA protocol number of TCP (RFC 9293).
pub const PROTOCOL_TCP: u8 = 6;
/// IANA protocol number of UDP (RFC 768).
pub const PROTOCOL_UDP: u8 = 17;

/// The second half of `::ffff:0:0/96`, as it lies in memory.
const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An IP address in network byte order; IPv4 as v4-mapped IPv6 (RFC 4291, 2.5.5.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address([u32; 4]);

impl Address {
    /// An IPv4 address from its word as it lies in the packet.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, V4_MAPPED, word])
    }

    /// An IPv6 address from its words as they lie in the packet.
    #[inline(always)]
    pub const fn v6(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The bits of an IPv6 address that `mask` keeps; an IPv4 address as it is.
    #[inline(always)]
    pub const fn masked(&self, mask: &[u32; 4]) -> Self {
        let words = &self.0;
        if words[0] == 0 && words[1] == 0 && words[2] == V4_MAPPED {
            return *self;
        }
        Self([words[0] & mask[0], words[1] & mask[1], words[2] & mask[2], words[3] & mask[3]])
    }

    /// The words as they lie in the packet, for hashing.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// Both halves as words.
    #[inline(always)]
    pub const fn halves(&self) -> [u64; 2] {
        let words = &self.0;
        [(words[0] as u64) << 32 | words[1] as u64, (words[2] as u64) << 32 | words[3] as u64]
    }

    /// The address whose halves these are.
    pub const fn of_halves([high, low]: [u64; 2]) -> Self {
        Self([(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32])
    }

    /// An IPv4 address's word, as it lies in the packet.
    #[inline(always)]
    pub const fn last_word(&self) -> u32 {
        self.0[3]
    }

    /// Returns the address, with v4-mapped addresses as IPv4.
    pub fn ip(&self) -> IpAddr {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let octets = match ip {
            IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4).octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
        Self(words)
    }
}

/// The VLAN zone of a flow: up to two tags, outer first. A priority tag (VID 0, IEEE 802.1Q) is none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vlans(u32);

impl Vlans {
    /// The zone inside one more tag, given its tag control information in host order.
    #[inline(always)]
    pub const fn push(self, tci: u16) -> Self {
        let vid = tci & 0xfff;
        if vid == 0 { self } else { Self((self.0 << 12 | vid as u32) & 0xff_ffff) }
    }

    /// The tags, outer first.
    pub fn tags(self) -> impl Iterator<Item = u16> {
        [(self.0 >> 12) as u16 & 0xfff, self.0 as u16 & 0xfff].into_iter().filter(|vid| *vid != 0)
    }
}

/// Scope of a flow key: VLAN zone, protocol and IP version, in one word.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope(u32);

impl Scope {
    const V6: u32 = 0x80 << 24;
    const ZONE: u32 = 0xff_ffff;

    /// A scope; `protocol` is below 128.
    #[inline(always)]
    pub const fn new(vlans: Vlans, protocol: u8, v6: bool) -> Self {
        Self(vlans.0 | ((protocol & 0x7f) as u32) << 24 | if v6 { Self::V6 } else { 0 })
    }

    /// All of it.
    #[inline(always)]
    pub(crate) const fn word(self) -> u32 {
        self.0
    }

    /// IANA protocol number.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 24) as u8 & 0x7f
    }

    /// Returns true for IPv6.
    #[inline(always)]
    pub const fn v6(self) -> bool {
        self.0 & Self::V6 != 0
    }

    /// VLAN zone.
    pub const fn vlans(self) -> Vlans {
        Vlans(self.0 & Self::ZONE)
    }

    /// Returns true if there is a VLAN tag.
    #[inline(always)]
    pub const fn tagged(self) -> bool {
        self.0 & Self::ZONE != 0
    }

    /// Returns the scope without VLAN tags.
    #[inline(always)]
    pub const fn untagged(self) -> Self {
        Self(self.0 & !Self::ZONE)
    }
}

/// Key of a flow. Ports are in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Sender of the SYN.
    pub client: Address,
    /// Its peer.
    pub server: Address,
    /// The client's port.
    pub client_port: u16,
    /// The server's port: the service.
    pub server_port: u16,
    /// VLAN zone, protocol, IP version.
    pub scope: Scope,
}

const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// Returns the key with client and server exchanged.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            client: self.server,
            server: self.client,
            client_port: self.server_port,
            server_port: self.client_port,
            scope: self.scope,
        }
    }
}

/// Key of the table of packets that come in fragments (RFC 791, 3.2; RFC 8200, 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Sender.
    pub source: Address,
    /// Receiver.
    pub destination: Address,
    /// Identification.
    pub identification: u32,
    /// VLAN zone, protocol, IP version.
    pub scope: Scope,
    /// Direction of the hook: a fragment belongs to what the same hook made of the first fragment.
    pub hook: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 44);

/// Owner of a fragmented packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentOwner {
    /// The flow; all zeros while `direction` does not name one.
    pub flow: FlowKey,
    /// One of [`fragment_owner`].
    pub direction: u16,
    /// End of the packet's headers: see [`pieces`].
    pub headers: u16,
    /// Fragments that came before the first one.
    pub waiting: u16,
    /// Units of those fragments: see [`pieces`].
    pub waiting_units: u16,
    /// Their IP bytes.
    pub waiting_bytes: u32,
    /// Their bytes behind the IP headers.
    pub waiting_payload: u32,
}

/// Headers of a fragmented packet.
///
/// The headers may continue in the second and later fragments (RFC 1858, 3). Offsets count from the start of
/// the fragmented part. Fragments begin at multiples of eight bytes, and headers are multiples of four: one
/// bit for each unit of eight bytes tells how much of a fragment is headers.
pub mod pieces {
    /// Flag of a header end that is a lower bound: the first fragment ended before the TCP data offset.
    pub const LEAST: u16 = 0x8000;
    /// Number of units with a bit. Bytes behind them count as payload.
    pub const UNITS: u32 = 16;

    /// The units of which `bytes` bytes from `offset` on hold at least the first half.
    #[inline(always)]
    pub const fn units(offset: u32, bytes: u32) -> u16 {
        let first = offset >> 3;
        if first >= UNITS {
            return 0;
        }
        let count = (bytes + 4) >> 3;
        let count = if count > UNITS { UNITS } else { count };
        ((((1_u64 << count) - 1) << first) & 0xffff) as u16
    }

    /// Returns the number of header bytes in these units; the headers end at `headers`.
    #[inline(always)]
    pub const fn of_headers(units: u16, headers: u16) -> u32 {
        let end = (headers & !LEAST) as u32;
        let end = if end > UNITS << 3 { UNITS << 3 } else { end };
        let whole = end >> 3;
        let bytes = ((units as u32) & ((1 << whole) - 1)).count_ones() << 3;
        // A header may end within a unit.
        bytes + (units as u32 >> whole & 1) * (end & 4)
    }
}

/// Owner of a fragmented packet, or the reason why it is not counted.
pub mod fragment_owner {
    /// Unknown: the first fragment has not arrived.
    pub const UNKNOWN: u32 = 0;
    /// A flow, client to server.
    pub const UP: u32 = 1;
    /// A flow, server to client.
    pub const DOWN: u32 = 2;
    /// Ports that are not watched.
    pub const UNWATCHED: u32 = 3;
    /// Traffic of another host, on an interface that counts only this machine.
    pub const FOREIGN: u32 = 4;
    /// A tunnel port that is not watched.
    pub const TUNNELLED: u32 = 5;
}

const _: () = assert!(size_of::<FragmentOwner>() == 56);

/// Key of a superseded flow: its 5-tuple carries a newer flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SupersededKey {
    /// The tuple.
    pub flow: FlowKey,
    /// Start of the superseded flow: [`crate::FlowCounters::first`].
    pub first: u64,
}

const _: () = assert!(size_of::<SupersededKey>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went_in() {
        for text in ["192.0.2.7", "2001:db8::25", "::1", "0.0.0.0"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).ip(), ip);
        }
        let word = u32::from_ne_bytes([192, 0, 2, 7]);
        assert_eq!(Address::v4(word), Address::from("192.0.2.7".parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn zones_keep_two_tags_and_no_priority_tag() {
        let tags = |zone: Vlans| -> ([u16; 2], usize) {
            let mut out = [0; 2];
            let count = zone.tags().enumerate().map(|(i, tag)| out[i] = tag).count();
            (out, count)
        };
        assert_eq!(tags(Vlans::default()), ([0, 0], 0));
        assert_eq!(tags(Vlans::default().push(0xe007)), ([7, 0], 1));
        assert_eq!(tags(Vlans::default().push(9).push(8)), ([9, 8], 2));
        assert_eq!(Vlans::default().push(9).push(0xe000), Vlans::default().push(9));
    }

    #[test]
    fn the_units_of_fragments_tell_their_headers() {
        let header = |offset, bytes, headers| pieces::of_headers(pieces::units(offset, bytes), headers);
        for headers in (8..=60).step_by(4) {
            let mut sum = 0;
            for offset in (0..80).step_by(8) {
                let expected = u32::from(headers).saturating_sub(offset).min(8);
                assert_eq!(header(offset, 8, headers), expected, "{offset} {headers}");
                assert_eq!(header(offset, 8, headers | pieces::LEAST), expected);
                sum += expected;
            }
            assert_eq!((sum, header(0, 1_480, headers)), (u32::from(headers), u32::from(headers)));
            // The last fragment ends with the header.
            let last = u32::from(headers) & !7;
            assert_eq!(header(last, 4, headers), u32::from(headers) & 4);
        }
        assert_eq!(
            pieces::units(0, 3) | pieces::units(128, 8),
            0,
            "less than half a unit, and behind all of them"
        );
        assert_eq!((header(120, 8, 132), header(120, 8, 124)), (8, 4), "the last unit");
    }

    #[test]
    fn scope_separates_versions_and_protocols() {
        let zone = Vlans::default().push(4095).push(4094);
        let scope = Scope::new(zone, PROTOCOL_UDP, true);
        assert_eq!((scope.protocol(), scope.vlans()), (PROTOCOL_UDP, zone));
        assert_ne!(scope, Scope::new(zone, PROTOCOL_UDP, false));
    }
}
