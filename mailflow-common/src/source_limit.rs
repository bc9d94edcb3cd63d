//! Sources: their limit in the flow table, and the counters of their packets beyond it.

use crate::{Address, DirectionCounters, FlowKey, HashKeys};

/// Key of the overflow map, for packets of flows without an entry in the flow table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceOverflowKey {
    /// Client address; for IPv6 its prefix.
    pub source: Address,
    /// Server port.
    pub server_port: u16,
    /// IANA protocol number.
    pub protocol: u16,
}

const _: () = assert!(size_of::<SourceOverflowKey>() == 20);

/// Counters of a source in the overflow map. All but the times only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceOverflowCounters {
    /// Client to server.
    pub up: DirectionCounters,
    /// Server to client.
    pub down: DirectionCounters,
    /// SYNs, with retransmissions.
    pub syns: u32,
    /// SYN-ACKs.
    pub syn_acks: u32,
}

const _: () = assert!(size_of::<SourceOverflowCounters>() == 88);

/// Cells in each of the two rows of the sketch. A power of two.
pub const SKETCH_ROW_CELLS: u32 = 65_536;
/// Index of the first cell behind the rows. [`SourceLimit::keys`] are there; zeros until the agent has drawn
/// them.
pub const SKETCH_KEY_OFFSET: u32 = 2 * SKETCH_ROW_CELLS;
/// Number of all cells.
pub const SKETCH_CELLS: u32 = SKETCH_KEY_OFFSET + HashKeys::WORDS as u32;

/// Limit of flows in the table for each source, and the definition of a source.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimit {
    /// Mask of an IPv6 address that gives the source, in network byte order.
    pub mask: [u32; 4],
    /// Keys of the hashes of the tables.
    pub keys: HashKeys,
    /// Largest number of flows of a source.
    pub max_flows: u64,
}

impl SourceLimit {
    /// No limit, and each address is a source.
    pub const NONE: Self = Self { mask: [u32::MAX; 4], keys: HashKeys::ZERO, max_flows: u64::MAX };

    /// Returns the mask of an IPv6 prefix length.
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

    /// Returns the source of a client.
    #[inline(always)]
    pub const fn source(&self, client: &Address) -> Address {
        client.masked(&self.mask)
    }

    /// Returns the two cells that count the flows of a source. Two sources share both with a probability of
    /// 2^-32.
    #[inline(always)]
    pub const fn cells(&self, source: &Address) -> [u32; 2] {
        const _: () = assert!(SKETCH_ROW_CELLS == 1 << 16);
        let [first, second] = self.keys.source(source);
        [first >> 16, SKETCH_ROW_CELLS + (second >> 16)]
    }
}

/// Numbers of entries inserted since the program was loaded.
///
/// As limits: from these numbers on only packets of servers insert entries, as client addresses can be
/// spoofed. The agent raises the limits at each poll, by the free space that it finds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryCounts {
    /// Flows in the flow table.
    pub flows: u64,
    /// Sources in the overflow map.
    pub sources: u64,
}

impl EntryCounts {
    /// No limit.
    pub const UNLIMITED: Self = Self { flows: u64::MAX, sources: u64::MAX };
}

/// Request of the agent to evict a flow, and the outcome.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Key of the flow.
    pub flow: FlowKey,
    /// Packets of both directions that the agent has seen. The program keeps an entry with another number.
    pub packets: u64,
    /// One of [`removal_outcome`].
    pub answer: u64,
}

const _: () = assert!(size_of::<Removal>() == 56);

/// Outcome of a [`Removal`].
pub mod removal_outcome {
    /// Largest number of removals of one run: they fill the page that a frame has on every kernel.
    pub const MOST: usize = 62;
    /// Not processed yet.
    pub const ASKED: u64 = 0;
    /// Evicted, with the packets that the agent has seen.
    pub const REMOVED: u64 = 1;
    /// Kept, as the entry has more packets.
    pub const LIVES: u64 = 2;
    /// No such entry.
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
        let sharing = |prefix| SourceLimit { mask: SourceLimit::mask(prefix), ..SourceLimit::NONE };
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
        let sharing = SourceLimit { keys: HashKeys::draw(|| random.u64(..)), ..SourceLimit::NONE };
        let mut seen = [0_u8; 2 * SKETCH_ROW_CELLS as usize];
        for host in 0..SKETCH_ROW_CELLS {
            let [first, second] = sharing.cells(&Address::v4(host.to_be()));
            assert!(first < SKETCH_ROW_CELLS && (SKETCH_ROW_CELLS..2 * SKETCH_ROW_CELLS).contains(&second));
            seen[first as usize] += 1;
            seen[second as usize] += 1;
        }
        // As many sources as cells: by chance none holds more than a dozen.
        assert!(seen.iter().all(|count| *count <= 12), "{:?}", seen.iter().max());
    }
}
