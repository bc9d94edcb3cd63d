//! Limits of concurrent connections, in total and for each peer, so that no peer can exclude the others.
//!
//! A new connection is served unless all others are protected. At a limit, the oldest connection of the peer
//! with the most connections is evicted.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

/// Limiter of concurrent connections by peer.
#[derive(Debug)]
pub struct ConnectionLimiter<P> {
    connections: Mutex<Connections<P>>,
    /// Maximum number of connections.
    max_total: usize,
    /// Maximum number of connections of a peer.
    max_per_peer: usize,
}

#[derive(Debug)]
struct Connections<P> {
    next: u64,
    /// Connections in the order of their start.
    by_age: BTreeMap<u64, Connection<P>>,
}

#[derive(Debug)]
struct Connection<P> {
    peer: P,
    signal: Arc<EvictionSignal>,
}

/// Signal that tells a connection to close.
#[derive(Debug, Default)]
pub struct EvictionSignal {
    evicted: Notify,
    protected: AtomicBool,
}

impl EvictionSignal {
    /// Completes when the connection must close.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Sets whether the connection is protected from eviction, as it has to finish something.
    pub fn set_protected(&self, protected: bool) {
        self.protected.store(protected, Ordering::Release);
    }
}

/// Permit of a served connection, which is released on drop.
#[derive(Debug)]
pub struct ConnectionPermit<P: Copy + Eq + Hash> {
    limiter: Arc<ConnectionLimiter<P>>,
    id: u64,
}

impl<P: Copy + Eq + Hash> ConnectionLimiter<P> {
    /// Returns a limiter with the limits `max_total` and `max_per_peer`.
    pub fn new(max_total: usize, max_per_peer: usize) -> Self {
        Self {
            connections: Mutex::new(Connections { next: 0, by_age: BTreeMap::new() }),
            max_total,
            max_per_peer,
        }
    }

    /// Admits a connection of a peer. At a limit, evicts another connection by its [`EvictionSignal`]. `None`
    /// if all candidates are protected.
    pub fn admit(self: &Arc<Self>, peer: P, signal: &Arc<EvictionSignal>) -> Option<ConnectionPermit<P>> {
        let mut connections = self.lock();
        if connections.count_of(peer) >= self.max_per_peer {
            connections.evict_oldest(peer)?;
        }
        if connections.by_age.len() >= self.max_total {
            let largest_peer = connections.largest_peer()?;
            connections.evict_oldest(largest_peer)?;
        }
        let id = connections.next;
        connections.next += 1;
        connections.by_age.insert(id, Connection { peer, signal: Arc::clone(signal) });
        Some(ConnectionPermit { limiter: Arc::clone(self), id })
    }

    fn lock(&self) -> MutexGuard<'_, Connections<P>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Copy + Eq + Hash> Connections<P> {
    fn count_of(&self, peer: P) -> usize {
        self.by_age.values().filter(|connection| connection.peer == peer).count()
    }

    /// Returns the peer with the most evictable connections.
    fn largest_peer(&self) -> Option<P> {
        let mut numbers: HashMap<P, usize> = HashMap::new();
        for connection in self.by_age.values().filter(|connection| connection.is_evictable()) {
            *numbers.entry(connection.peer).or_default() += 1;
        }
        numbers.into_iter().max_by_key(|(_, number)| *number).map(|(peer, _)| peer)
    }

    /// Evicts the oldest evictable connection of a peer.
    fn evict_oldest(&mut self, peer: P) -> Option<()> {
        let mut candidates =
            self.by_age.iter().filter(|(_, connection)| connection.peer == peer && connection.is_evictable());
        let id = *candidates.next()?.0;
        let connection = self.by_age.remove(&id)?;
        connection.signal.evicted.notify_one();
        Some(())
    }
}

impl<P> Connection<P> {
    fn is_evictable(&self) -> bool {
        !self.signal.protected.load(Ordering::Acquire)
    }
}

impl<P: Copy + Eq + Hash> Drop for ConnectionPermit<P> {
    fn drop(&mut self) {
        self.limiter.lock().by_age.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connection that stores its permit.
    struct TestConnection {
        permit: Option<ConnectionPermit<u8>>,
        signal: Arc<EvictionSignal>,
    }

    fn admit(limiter: &Arc<ConnectionLimiter<u8>>, peer: u8) -> TestConnection {
        let signal = Arc::default();
        TestConnection { permit: limiter.admit(peer, &signal), signal }
    }

    fn evicted(connection: &TestConnection) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = connection.signal.evicted() => true,
                () = std::future::ready(()) => false,
            }
        })
    }

    #[test]
    fn oldest_connection_of_the_largest_peer_is_evicted() {
        let limiter = Arc::new(ConnectionLimiter::new(4, 3));
        let ones = [1, 1, 1].map(|peer| admit(&limiter, peer));
        let fourth = admit(&limiter, 1);
        assert!(fourth.permit.is_some());
        assert_eq!(ones.each_ref().map(evicted), [true, false, false], "of its own");
        // Four connections, three of them of the first peer.
        let twos = [2, 2].map(|peer| admit(&limiter, peer));
        assert!(twos.iter().all(|connection| connection.permit.is_some()));
        assert_eq!(ones.each_ref().map(evicted), [false, true, false], "of the peer with the most");
        assert!(!evicted(&fourth) && !twos.iter().any(evicted));
        drop(fourth);
        drop(ones);
        let more = admit(&limiter, 3);
        assert!(more.permit.is_some() && !twos.iter().any(evicted), "there is room");
    }

    #[test]
    fn protected_connections_stay_and_permits_are_released_once() {
        let limiter = Arc::new(ConnectionLimiter::new(2, 2));
        let (busy, other) = (admit(&limiter, 1), admit(&limiter, 1));
        busy.signal.set_protected(true);
        let third = admit(&limiter, 1);
        assert!(third.permit.is_some() && !evicted(&busy) && evicted(&other));
        // An evicted connection ends later. That releases no permit of another connection.
        drop(other);
        third.signal.set_protected(true);
        assert!(admit(&limiter, 2).permit.is_none(), "nobody may leave");
        busy.signal.set_protected(false);
        assert!(admit(&limiter, 2).permit.is_some() && evicted(&busy));
    }
}
