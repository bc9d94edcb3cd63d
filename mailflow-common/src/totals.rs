//! Per-CPU totals. Every packet that the program sees ends in exactly one counter.

/// Reason why a packet was not counted to a flow. The discriminant is its index in [`Totals::reasons`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Neither IPv4 nor IPv6 (ARP, LLDP, ...).
    NotIp = 0,
    /// IP, but neither TCP nor UDP.
    NotTransport = 1,
    /// TCP or UDP, but no watched server's port on the side this hook counts.
    NotWatched = 2,
    /// Headers that contradict each other.
    Malformed = 3,
    /// Shorter than its headers.
    Truncated = 4,
    /// Total length beyond the end of the frame.
    ForgedLength = 5,
    /// More VLAN tags or IPv6 extension headers than are followed.
    TooDeep = 6,
    /// MPLS.
    Mpls = 7,
    /// A tunnel (IP in IP, GRE, ...); it is counted on its own interface.
    Tunnel = 8,
    /// A fragment without its first one: no ports.
    Fragment = 9,
    /// Forwarded or foreign traffic on an interface that counts only what the machine itself sends.
    NotLocal = 10,
    /// A link layer that carries whole frames or tags of its own: FabricPath, provider backbone bridges (802.1ah),
    /// VN-Tag and E-Tag (802.1BR), TRILL, MACsec, network service headers.
    LinkTunnel = 11,
    /// A datagram to a port of a tunnel (VXLAN, GTP-U, Geneve, ...) that is not watched. What it carries is counted on
    /// the tunnel's own interface, if it has one here.
    UdpTunnel = 12,
}

impl Reason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Reason; 13] = [
        Reason::NotIp,
        Reason::NotTransport,
        Reason::NotWatched,
        Reason::Malformed,
        Reason::Truncated,
        Reason::ForgedLength,
        Reason::TooDeep,
        Reason::Mpls,
        Reason::Tunnel,
        Reason::Fragment,
        Reason::NotLocal,
        Reason::LinkTunnel,
        Reason::UdpTunnel,
    ];

    /// Returns the name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::NotIp => "not_ip",
            Reason::NotTransport => "not_transport",
            Reason::NotWatched => "not_watched",
            Reason::Malformed => "malformed",
            Reason::Truncated => "truncated",
            Reason::ForgedLength => "forged_length",
            Reason::TooDeep => "too_deep",
            Reason::Mpls => "mpls",
            Reason::Tunnel => "tunnel",
            Reason::Fragment => "fragment",
            Reason::NotLocal => "not_local",
            Reason::LinkTunnel => "link_tunnel",
            Reason::UdpTunnel => "udp_tunnel",
        }
    }

    /// Returns true if such a packet may have been mail that is missing from the counts. A datagram to a tunnel's
    /// port is none: any client may have that port, and most tunnels end on an interface of their own.
    pub const fn is_loss(self) -> bool {
        !matches!(
            self,
            Reason::NotIp | Reason::NotTransport | Reason::NotWatched | Reason::NotLocal | Reason::UdpTunnel
        )
    }
}

/// Totals of one direction over all flows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionTotals {
    /// Buffers (a merged buffer is one).
    pub buffers: u64,
    /// Packets on the wire.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// SYNs, or SYN-ACKs, of flows in the table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeCounters {
    /// All.
    pub all: u64,
    /// Copies within one tick of the first. A sender waits a second (RFC 6298, 2), so something on the path
    /// made them, for example a mirror port.
    pub copies: u64,
}

/// Totals of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Client to server, including unattributed packets.
    pub up: DirectionTotals,
    /// Server to client, including unattributed packets.
    pub down: DirectionTotals,
    /// Part of `up` without an entry for its flow or its source.
    pub unattributed_up: DirectionTotals,
    /// Part of `down` without an entry for its flow or its source.
    pub unattributed_down: DirectionTotals,
    /// Flows merged with the next flow of their 5-tuple, as the map of superseded flows was full.
    pub merged: u64,
    /// SYNs.
    pub syns: HandshakeCounters,
    /// SYN-ACKs.
    pub syn_acks: HandshakeCounters,
    /// Buffers not counted, by [`Reason`]. The unused elements stay zero.
    pub reasons: [u64; 16],
}

const _: () = assert!(size_of::<Totals>() == 264, "the totals map's value size");
const _: () = assert!(Reason::ALL.len() <= 16);

impl Totals {
    /// Returns the buffers not counted for `reason`.
    pub const fn reason(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize]
    }

    /// Returns all buffers that the program has seen.
    pub fn shown(&self) -> u64 {
        self.up.buffers + self.down.buffers + self.reasons.iter().sum::<u64>()
    }

    /// Adds another CPU's totals.
    pub fn add(&mut self, other: &Totals) {
        for (mine, theirs) in [
            (&mut self.up, &other.up),
            (&mut self.down, &other.down),
            (&mut self.unattributed_up, &other.unattributed_up),
            (&mut self.unattributed_down, &other.unattributed_down),
        ] {
            mine.buffers += theirs.buffers;
            mine.packets += theirs.packets;
            mine.bytes += theirs.bytes;
        }
        self.merged += other.merged;
        for (mine, theirs) in [(&mut self.syns, &other.syns), (&mut self.syn_acks, &other.syn_acks)] {
            mine.all += theirs.all;
            mine.copies += theirs.copies;
        }
        for (mine, theirs) in self.reasons.iter_mut().zip(other.reasons) {
            // A CPU may take back what another one has noted: only the sum is above zero.
            *mine = mine.wrapping_add(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_index() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
        }
    }
}
