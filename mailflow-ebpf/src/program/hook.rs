//! Where a packet is seen, and what is counted there.

use mailflow_ebpf::Link;

/// Which packets a hook counts. On a gateway's inside and on a mail host each direction passes one
/// hook, on a mirror both pass the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Toward {
    /// Packets to a watched port.
    Server = 0,
    /// Packets from one.
    Client = 1,
    /// Either.
    Both = 2,
}

/// Whose packets a hook counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Everybody's.
    Any = 0,
    /// The machine's own, at egress.
    Made = 1,
    /// The machine's own, at ingress.
    Received = 2,
}

/// Where a packet is seen, in one word: what a function takes.
#[derive(Clone, Copy)]
pub(super) struct Hook(u32);

impl Hook {
    #[inline(always)]
    pub(super) fn new(link: Link, toward: Toward, whose: Whose) -> Self {
        Self(link as u32 | (toward as u32) << 4 | (whose as u32) << 8)
    }

    #[inline(always)]
    pub(super) fn link(self) -> Link {
        if self.0 & 15 == Link::Ethernet as u32 { Link::Ethernet } else { Link::Ip }
    }

    #[inline(always)]
    pub(super) fn toward(self) -> Toward {
        match self.0 >> 4 & 15 {
            0 => Toward::Server,
            1 => Toward::Client,
            _ => Toward::Both,
        }
    }

    #[inline(always)]
    pub(super) fn whose(self) -> Whose {
        match self.0 >> 8 {
            0 => Whose::Any,
            1 => Whose::Made,
            _ => Whose::Received,
        }
    }
}
