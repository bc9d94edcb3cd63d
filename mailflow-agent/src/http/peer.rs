//! Peers of the metrics port, and their places in its limits.

use crate::util::connection_limit::{ConnectionLimiter, ConnectionPermit, EvictionSignal};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// Who asks: an address, or the /64 of an IPv6 address, as a host has many in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer(pub(super) IpAddr);

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address => address,
        })
    }
}

/// A connection, as its requests know it.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) peer: Peer,
    pub(crate) leave: Arc<EvictionSignal>,
    pub(crate) pages: Arc<ConnectionLimiter<Peer>>,
}

impl Guest {
    /// A place among those that read a page; none where there is none.
    pub(crate) fn asks_for_a_page(&self) -> Option<ConnectionPermit<Peer>> {
        self.pages.admit(self.peer, &self.leave)
    }
}

/// A page that is being read.
pub(crate) struct PageInHand {
    pub(crate) page: Vec<u8>,
    pub(crate) _place: ConnectionPermit<Peer>,
}
