//! Peers that are served at the same time: bounded in all and for each, so that nobody keeps the others out.
//!
//! Who comes last is served. At a bound the oldest of the peer that takes the most room gives way.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

/// Peers that are served now.
#[derive(Debug)]
pub struct Crowd<P> {
    members: Mutex<Members<P>>,
    /// Most of all.
    all: usize,
    /// Most of a peer.
    each: usize,
}

#[derive(Debug)]
struct Members<P> {
    next: u64,
    /// In the order in which they came.
    by_age: BTreeMap<u64, Member<P>>,
}

#[derive(Debug)]
struct Member<P> {
    peer: P,
    leave: Arc<Leave>,
}

/// True if somebody is to give way.
#[derive(Debug, Default)]
pub struct Leave {
    asked: Notify,
    stays: AtomicBool,
}

impl Leave {
    /// Returns once the peer is to give way.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// From now on the peer gives way, or does not as something must be finished.
    pub fn set_stays(&self, stays: bool) {
        self.stays.store(stays, Ordering::Release);
    }
}

/// A place among those that are served. It is free once this is dropped.
#[derive(Debug)]
pub struct Place<P: Copy + Eq + Hash> {
    crowd: Arc<Crowd<P>>,
    id: u64,
}

impl<P: Copy + Eq + Hash> Crowd<P> {
    /// Nobody yet; at most `all`, and `each` of a peer.
    pub fn new(all: usize, each: usize) -> Self {
        Self { members: Mutex::new(Members { next: 0, by_age: BTreeMap::new() }), all, each }
    }

    /// Gives a peer a place; who gives way for it hears of it by its own [`Leave`]. None where all of those who might
    /// must stay.
    pub fn enter(self: &Arc<Self>, peer: P, leave: &Arc<Leave>) -> Option<Place<P>> {
        let mut members = self.members();
        if members.number_of(peer) >= self.each {
            members.part(peer)?;
        }
        if members.by_age.len() >= self.all {
            let most = members.most()?;
            members.part(most)?;
        }
        let id = members.next;
        members.next += 1;
        members.by_age.insert(id, Member { peer, leave: Arc::clone(leave) });
        Some(Place { crowd: Arc::clone(self), id })
    }

    fn members(&self) -> MutexGuard<'_, Members<P>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Copy + Eq + Hash> Members<P> {
    fn number_of(&self, peer: P) -> usize {
        self.by_age.values().filter(|member| member.peer == peer).count()
    }

    /// The peer with the most members that may leave.
    fn most(&self) -> Option<P> {
        let mut numbers: HashMap<P, usize> = HashMap::new();
        for member in self.by_age.values().filter(|member| member.may_leave()) {
            *numbers.entry(member.peer).or_default() += 1;
        }
        numbers.into_iter().max_by_key(|(_, number)| *number).map(|(peer, _)| peer)
    }

    /// Lets the oldest of a peer give way that may.
    fn part(&mut self, peer: P) -> Option<()> {
        let mut those = self.by_age.iter().filter(|(_, member)| member.peer == peer && member.may_leave());
        let id = *those.next()?.0;
        let member = self.by_age.remove(&id)?;
        member.leave.asked.notify_one();
        Some(())
    }
}

impl<P> Member<P> {
    fn may_leave(&self) -> bool {
        !self.leave.stays.load(Ordering::Acquire)
    }
}

impl<P: Copy + Eq + Hash> Drop for Place<P> {
    fn drop(&mut self) {
        self.crowd.members().by_age.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enters, and keeps the place.
    struct Guest {
        place: Option<Place<u8>>,
        leave: Arc<Leave>,
    }

    fn enter(crowd: &Arc<Crowd<u8>>, peer: u8) -> Guest {
        let leave = Arc::default();
        Guest { place: crowd.enter(peer, &leave), leave }
    }

    fn asked(guest: &Guest) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = guest.leave.asked() => true,
                () = std::future::ready(()) => false,
            }
        })
    }

    #[test]
    fn the_oldest_of_the_peer_with_the_most_gives_way() {
        let crowd = Arc::new(Crowd::new(4, 3));
        let ones = [1, 1, 1].map(|peer| enter(&crowd, peer));
        let fourth = enter(&crowd, 1);
        assert!(fourth.place.is_some());
        assert_eq!(ones.each_ref().map(asked), [true, false, false], "of its own");
        // All are four now, three of the first peer.
        let twos = [2, 2].map(|peer| enter(&crowd, peer));
        assert!(twos.iter().all(|guest| guest.place.is_some()));
        assert_eq!(ones.each_ref().map(asked), [false, true, false], "of the peer with the most");
        assert!(!asked(&fourth) && !twos.iter().any(asked));
        drop(fourth);
        drop(ones);
        let more = enter(&crowd, 3);
        assert!(more.place.is_some() && !twos.iter().any(asked), "there is room");
    }

    #[test]
    fn who_must_stay_does_and_a_place_is_free_once() {
        let crowd = Arc::new(Crowd::new(2, 2));
        let (busy, other) = (enter(&crowd, 1), enter(&crowd, 1));
        busy.leave.set_stays(true);
        let third = enter(&crowd, 1);
        assert!(third.place.is_some() && !asked(&busy) && asked(&other));
        // The one that gave way goes when it can: that frees no other's place.
        drop(other);
        third.leave.set_stays(true);
        assert!(enter(&crowd, 2).place.is_none(), "nobody may leave");
        busy.leave.set_stays(false);
        assert!(enter(&crowd, 2).place.is_some() && asked(&busy));
    }
}
