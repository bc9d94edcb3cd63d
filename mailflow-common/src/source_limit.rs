//! What the kernel keeps of a source: its share of the flow table, and its packets beyond it.

use crate::{Address, DirectionCounters, FlowKey, HashKeys};

/// Key of the overflow table: where the packets of flows go that have no place in the flow table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpillKey {
    /// The client's address; of IPv6 its prefix.
    pub source: Address,
    /// The server's port: the service.
    pub server_port: u16,
    /// IANA protocol number.
    pub protocol: u16,
}

const _: () = assert!(size_of::<SpillKey>() == 20);

/// Value of the overflow table. All but the times only ever grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpillCounters {
    /// Client to server.
    pub up: DirectionCounters,
    /// Server to client.
    pub down: DirectionCounters,
    /// SYNs: attempts, with those that were sent again.
    pub syns: u32,
    /// SYN-ACKs: sessions.
    pub syn_acks: u32,
}

const _: () = assert!(size_of::<SpillCounters>() == 88);

/// Cells that sources are counted in, in each of two rows. A power of two.
pub const SHARE_CELLS: u32 = 65_536;
/// First of the cells behind them, which hold [`Sharing::keys`]: zeros until the agent has drawn them.
pub const KEY_CELLS: u32 = 2 * SHARE_CELLS;
/// All of these cells.
pub const ALL_CELLS: u32 = KEY_CELLS + HashKeys::WORDS as u32;

/// How much of the flow table one source may hold, and what a source is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// The bits of an IPv6 address that tell sources apart, as they lie in the packet.
    pub mask: [u32; 4],
    /// Keys of the hashes of these tables.
    pub keys: HashKeys,
    /// Most flows of a source.
    pub most: u64,
}

impl Sharing {
    /// No limit, and every address a source.
    pub const NONE: Self = Self { mask: [u32::MAX; 4], keys: HashKeys::ZERO, most: u64::MAX };

    /// The mask of an IPv6 prefix length.
    pub const fn mask(prefix: u8) -> [u32; 4] {
        let mut mask = [0; 4];
        let mut word = 0;
        while word < 4 {
            let bits = (prefix as u32).saturating_sub(word * 32);
            let ones = if bits >= 32 { u32::MAX } else { !(u32::MAX >> bits) };
            mask[word as usize] = ones.to_be();
            word += 1;
        }
        mask
    }

    /// The source that a client belongs to.
    #[inline(always)]
    pub const fn source(&self, client: &Address) -> Address {
        client.masked(&self.mask)
    }

    /// The two cells that count a source's flows. Two sources that share both hinder each other: of any two, one pair
    /// in 2^32.
    #[inline(always)]
    pub const fn cells(&self, source: &Address) -> [u32; 2] {
        const _: () = assert!(SHARE_CELLS == 1 << 16);
        let [first, second] = self.keys.source(source);
        [first >> 16, SHARE_CELLS + (second >> 16)]
    }
}

/// Room for what a client alone brings about, whose address may be spoofed: in the flow table, and in the overflow table.
/// Each is the number of entries made since the program was loaded from which on only packets of servers make more. The
/// agent moves it on at each reading, by what it found there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Flows made.
    pub flows: u64,
    /// Entries of the overflow table made.
    pub sources: u64,
}

impl Room {
    /// No limit.
    pub const ENDLESS: Self = Self { flows: u64::MAX, sources: u64::MAX };
}

/// What the agent asks the program to take out of the flow table, and its answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// The flow.
    pub flow: FlowKey,
    /// The packets of both directions that its entry held when the agent saw it. An entry that holds
    /// another number lives on, and stays.
    pub packets: u64,
    /// One of [`removal`].
    pub answer: u64,
}

const _: () = assert!(size_of::<Removal>() == 56);

/// What became of a [`Removal`].
pub mod removal {
    /// Most removals of one run: what fits into the one page that a frame has on every kernel.
    pub const MOST: usize = 62;
    /// Nobody has looked at it yet.
    pub const ASKED: u64 = 0;
    /// The entry is gone, with just the packets that were asked for.
    pub const REMOVED: u64 = 1;
    /// The entry has gained packets, and stays.
    pub const LIVES: u64 = 2;
    /// There is no such entry.
    pub const ABSENT: u64 = 3;
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn prefixes_group_ipv6_and_leave_ipv4_whole() {
        let sharing = |prefix| Sharing { mask: Sharing::mask(prefix), ..Sharing::NONE };
        for (prefix, source) in [
            (64, "2001:db8:1:2::"),
            (56, "2001:db8:1::"),
            (48, "2001:db8:1::"),
            (62, "2001:db8:1::"),
            (128, "2001:db8:1:2:3:4:5:6"),
            (0, "::"),
        ] {
            let client = address("2001:db8:1:2:3:4:5:6");
            assert_eq!(sharing(prefix).source(&client), address(source), "/{prefix}");
        }
        assert_eq!(sharing(64).source(&address("10.1.2.3")), address("10.1.2.3"));
    }

    #[test]
    fn cells_lie_in_their_rows_and_spread() {
        let mut random = fastrand::Rng::with_seed(3);
        let sharing = Sharing { keys: HashKeys::draw(|| random.u64(..)), ..Sharing::NONE };
        let mut seen = [0_u8; 2 * SHARE_CELLS as usize];
        for host in 0..SHARE_CELLS {
            let [first, second] = sharing.cells(&Address::v4(host.to_be()));
            assert!(first < SHARE_CELLS && (SHARE_CELLS..2 * SHARE_CELLS).contains(&second));
            seen[first as usize] += 1;
            seen[second as usize] += 1;
        }
        // As many sources as cells: by chance none holds more than a dozen.
        assert!(seen.iter().all(|count| *count <= 12), "{:?}", seen.iter().max());
    }
}
