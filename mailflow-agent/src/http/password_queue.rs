//! Turns at checking passwords: few at a time, as a check costs a tenth of a second on purpose.
//!
//! Of those that wait, the peer with the fewest wrong passwords is next, and of a peer the newest: who tries many
//! passwords delays those who know theirs as little as can be.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Checks at the same time.
pub(crate) const AT_ONCE: usize = 2;
/// Most that wait; beyond, one of the peer that has the most is sent away.
pub(crate) const WAITING: usize = 32;
/// Peers whose wrong passwords are remembered.
const PEERS: usize = 1_024;

/// Turns, by peer.
#[derive(Debug)]
pub(crate) struct Turns<P: Copy + Eq + Hash> {
    queue: Mutex<Queue<P>>,
}

#[derive(Debug)]
struct Queue<P: Copy + Eq + Hash> {
    running: usize,
    next: u64,
    waiting: Vec<Waiting<P>>,
    wrong: HashMap<P, u32>,
}

#[derive(Debug)]
struct Waiting<P: Copy + Eq + Hash> {
    peer: P,
    number: u64,
    called: oneshot::Sender<Turn<P>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<P: Copy + Eq + Hash>(Option<Arc<Turns<P>>>);

impl<P: Copy + Eq + Hash> Default for Turns<P> {
    fn default() -> Self {
        let queue = Queue { running: 0, next: 0, waiting: Vec::new(), wrong: HashMap::new() };
        Self { queue: Mutex::new(queue) }
    }
}

impl<P: Copy + Eq + Hash> Turns<P> {
    /// Waits for a turn; none where too many wait.
    pub(crate) async fn take(self: &Arc<Self>, peer: P) -> Option<Turn<P>> {
        let called = {
            let mut queue = self.queue();
            if queue.running < AT_ONCE {
                queue.running += 1;
                return Some(Turn(Some(Arc::clone(self))));
            }
            queue.wait(peer)
        };
        // The sender is dropped where this one is sent away.
        called.await.ok()
    }

    /// Books what came of a peer's turn.
    pub(crate) fn book(&self, peer: P, right: bool) {
        let mut queue = self.queue();
        if right {
            queue.wrong.remove(&peer);
            return;
        }
        if queue.wrong.len() >= PEERS {
            queue.wrong.clear();
        }
        let wrong = queue.wrong.entry(peer).or_default();
        *wrong = wrong.saturating_add(1);
    }

    fn queue(&self) -> MutexGuard<'_, Queue<P>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Copy + Eq + Hash> Queue<P> {
    fn wait(&mut self, peer: P) -> oneshot::Receiver<Turn<P>> {
        let (called, call) = oneshot::channel();
        self.waiting.retain(|waiting| !waiting.called.is_closed());
        if self.waiting.len() >= WAITING {
            let number = |peer| self.waiting.iter().filter(|waiting| waiting.peer == peer).count();
            let most = (0..self.waiting.len()).max_by_key(|index| {
                let waiting = &self.waiting[*index];
                (number(waiting.peer), Reverse(waiting.number))
            });
            most.map(|index| self.waiting.swap_remove(index));
        }
        let number = self.next;
        self.next += 1;
        self.waiting.push(Waiting { peer, number, called });
        call
    }

    /// Who is next.
    fn call(&mut self) -> Option<Waiting<P>> {
        let wrong = |waiting: &Waiting<P>| self.wrong.get(&waiting.peer).copied().unwrap_or(0);
        let next = (0..self.waiting.len()).min_by_key(|index| {
            let waiting = &self.waiting[*index];
            (wrong(waiting), Reverse(waiting.number))
        });
        next.map(|index| self.waiting.swap_remove(index))
    }
}

impl<P: Copy + Eq + Hash> Drop for Turn<P> {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let mut queue = turns.queue();
            let Some(waiting) = queue.call() else {
                queue.running -= 1;
                return;
            };
            drop(queue);
            match waiting.called.send(Turn(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // Who waited has gone: the turn is the next one's.
                Err(mut unheard) => unheard.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_guesses_waits_behind_who_does_not() {
        let turns: Arc<Turns<u8>> = Arc::default();
        let running = [turns.take(9).await.unwrap(), turns.take(9).await.unwrap()];
        turns.book(1, false);
        let mut order = Vec::new();
        let (told, mut calls) = tokio::sync::mpsc::unbounded_channel();
        for (number, peer) in [1, 1, 2, 2, 1].into_iter().enumerate() {
            let (turns, told) = (Arc::clone(&turns), told.clone());
            tokio::spawn(async move {
                let turn = turns.take(peer).await;
                told.send((number, peer)).unwrap();
                drop(turn);
            });
            tokio::task::yield_now().await;
        }
        drop((told, running));
        while let Some(call) = calls.recv().await {
            order.push(call);
        }
        assert_eq!(order, [(3, 2), (2, 2), (4, 1), (1, 1), (0, 1)]);
        assert_eq!(turns.queue().running, 0);
    }

    #[tokio::test]
    async fn who_goes_while_waiting_or_when_called_keeps_no_turn() {
        let turns: Arc<Turns<u8>> = Arc::default();
        let running = [turns.take(1).await.unwrap(), turns.take(1).await.unwrap()];
        let calls = [2, 2, 2].map(|peer| turns.queue().wait(peer));
        let [gone, called, other] = calls;
        drop(gone);
        drop(running);
        // Called, and gone before that was noticed.
        drop((called, other));
        assert_eq!(turns.queue().running, 0);
        assert!(turns.take(3).await.is_some());
    }

    #[tokio::test]
    async fn one_of_the_peer_with_the_most_is_sent_away() {
        let turns: Arc<Turns<u8>> = Arc::default();
        let running = [turns.take(1).await.unwrap(), turns.take(1).await.unwrap()];
        let mut waiting = Vec::new();
        for peer in std::iter::once(2).chain([1; WAITING - 1]) {
            let turns = Arc::clone(&turns);
            waiting.push(tokio::spawn(async move { turns.take(peer).await.is_some() }));
            tokio::task::yield_now().await;
        }
        let turns_of_it = Arc::clone(&turns);
        let last = tokio::spawn(async move { turns_of_it.take(3).await.is_some() });
        tokio::task::yield_now().await;
        drop(running);
        assert!(last.await.unwrap());
        let mut served = Vec::new();
        for one in waiting {
            served.push(one.await.unwrap());
        }
        assert!(served[0], "the only one of its peer");
        assert!(!served[1], "the oldest of the peer that has the most");
        assert!(served[2..].iter().all(|served| *served));
    }
}
