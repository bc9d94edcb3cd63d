//! Peers of the metrics port, and their use of its limits.

use crate::util::connection_limit::{ConnectionLimiter, ConnectionPermit, EvictionSignal};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// Client address. For IPv6 its /64, because a host may have many addresses in it.
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

/// Connection of a client, shared with its requests.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    pub(crate) peer: Peer,
    pub(crate) leave: Arc<EvictionSignal>,
    pub(crate) pages: Arc<ConnectionLimiter<Peer>>,
}

impl ClientConnection {
    /// Reserves one of the pages that may be read at a time. Returns `None` if none is free.
    pub(crate) fn reserve_page(&self) -> Option<ConnectionPermit<Peer>> {
        self.pages.admit(self.peer, &self.leave)
    }
}

/// Body of a page that is being read.
pub(crate) struct PageBody {
    pub(crate) page: Vec<u8>,
    pub(crate) _permit: ConnectionPermit<Peer>,
}
