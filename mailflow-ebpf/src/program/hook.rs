//! The hook that sees a packet, and what it counts.

use mailflow_ebpf::Link;

/// Direction of the packets that a hook counts. On a `lan` or `host` interface each direction has a hook, on
/// a mirror one hook sees both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Packets to a watched port.
    ToServer = 0,
    /// Packets from a watched port.
    FromServer = 1,
    /// Both.
    Both = 2,
}

/// Hosts whose packets a hook counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HostFilter {
    /// All hosts.
    Any = 0,
    /// This machine, at egress.
    LocalOut = 1,
    /// This machine, at ingress.
    LocalIn = 2,
}

/// Link type, direction and host filter of a hook, packed into one argument.
#[derive(Clone, Copy)]
pub(super) struct Hook(u32);

impl Hook {
    #[inline(always)]
    pub(super) fn new(link: Link, direction: Direction, host_filter: HostFilter) -> Self {
        Self(link as u32 | (direction as u32) << 4 | (host_filter as u32) << 8)
    }

    #[inline(always)]
    pub(super) fn link(self) -> Link {
        if self.0 & 15 == Link::Ethernet as u32 { Link::Ethernet } else { Link::Ip }
    }

    #[inline(always)]
    pub(super) fn direction(self) -> Direction {
        match self.0 >> 4 & 15 {
            0 => Direction::ToServer,
            1 => Direction::FromServer,
            _ => Direction::Both,
        }
    }

    #[inline(always)]
    pub(super) fn host_filter(self) -> HostFilter {
        match self.0 >> 8 {
            0 => HostFilter::Any,
            1 => HostFilter::LocalOut,
            _ => HostFilter::LocalIn,
        }
    }
}
