//! Queue of password checks. Few run at a time, because a check takes a tenth of a second by design.
//!
//! The waiting peer with the fewest wrong passwords is next, and of a peer the newest check. So a peer that
//! tries many passwords hardly delays the others.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Largest number of concurrent checks.
pub(crate) const MAX_CONCURRENT_CHECKS: usize = 2;
/// Largest number of waiting checks. Beyond it the oldest check of the peer with the most checks is rejected.
pub(crate) const MAX_WAITING_CHECKS: usize = 32;
/// Largest number of peers whose wrong passwords are remembered.
const MAX_REMEMBERED_PEERS: usize = 1_024;

/// Queue of password checks by peer.
#[derive(Debug)]
pub(crate) struct PasswordQueue<P: Copy + Eq + Hash> {
    state: Mutex<QueueState<P>>,
}

/// State of the queue.
#[derive(Debug)]
struct QueueState<P: Copy + Eq + Hash> {
    running: usize,
    next_number: u64,
    waiting: Vec<WaitingCheck<P>>,
    wrong_passwords: HashMap<P, u32>,
}

/// Check that waits for a permit.
#[derive(Debug)]
struct WaitingCheck<P: Copy + Eq + Hash> {
    peer: P,
    number: u64,
    permit_sender: oneshot::Sender<CheckPermit<P>>,
}

/// Permit for one check, released when it is dropped.
#[derive(Debug)]
pub(crate) struct CheckPermit<P: Copy + Eq + Hash>(Option<Arc<PasswordQueue<P>>>);

impl<P: Copy + Eq + Hash> Default for PasswordQueue<P> {
    fn default() -> Self {
        let state =
            QueueState { running: 0, next_number: 0, waiting: Vec::new(), wrong_passwords: HashMap::new() };
        Self { state: Mutex::new(state) }
    }
}

impl<P: Copy + Eq + Hash> PasswordQueue<P> {
    /// Waits for a permit. Returns `None` if the check is rejected because too many wait.
    pub(crate) async fn acquire(self: &Arc<Self>, peer: P) -> Option<CheckPermit<P>> {
        let permit_sender = {
            let mut state = self.state();
            if state.running < MAX_CONCURRENT_CHECKS {
                state.running += 1;
                return Some(CheckPermit(Some(Arc::clone(self))));
            }
            state.wait(peer)
        };
        // A rejected check drops the sender.
        permit_sender.await.ok()
    }

    /// Records the result of a peer's check.
    pub(crate) fn record_result(&self, peer: P, is_correct: bool) {
        let mut state = self.state();
        if is_correct {
            state.wrong_passwords.remove(&peer);
            return;
        }
        if state.wrong_passwords.len() >= MAX_REMEMBERED_PEERS {
            state.wrong_passwords.clear();
        }
        let wrong_passwords = state.wrong_passwords.entry(peer).or_default();
        *wrong_passwords = wrong_passwords.saturating_add(1);
    }

    fn state(&self) -> MutexGuard<'_, QueueState<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Copy + Eq + Hash> QueueState<P> {
    /// Adds a waiting check, and rejects another one if too many wait.
    fn wait(&mut self, peer: P) -> oneshot::Receiver<CheckPermit<P>> {
        let (permit_sender, call) = oneshot::channel();
        self.waiting.retain(|waiting| !waiting.permit_sender.is_closed());
        if self.waiting.len() >= MAX_WAITING_CHECKS {
            let number = |peer| self.waiting.iter().filter(|waiting| waiting.peer == peer).count();
            let to_reject = (0..self.waiting.len()).max_by_key(|index| {
                let waiting = &self.waiting[*index];
                (number(waiting.peer), Reverse(waiting.number))
            });
            to_reject.map(|index| self.waiting.swap_remove(index));
        }
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.push(WaitingCheck { peer, number, permit_sender });
        call
    }

    /// Removes and returns the next check.
    fn next_waiting(&mut self) -> Option<WaitingCheck<P>> {
        let wrong_passwords =
            |waiting: &WaitingCheck<P>| self.wrong_passwords.get(&waiting.peer).copied().unwrap_or(0);
        let next_index = (0..self.waiting.len()).min_by_key(|index| {
            let waiting = &self.waiting[*index];
            (wrong_passwords(waiting), Reverse(waiting.number))
        });
        next_index.map(|index| self.waiting.swap_remove(index))
    }
}

impl<P: Copy + Eq + Hash> Drop for CheckPermit<P> {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else { return };
        loop {
            let mut state = queue.state();
            let Some(waiting) = state.next_waiting() else {
                state.running -= 1;
                return;
            };
            drop(state);
            match waiting.permit_sender.send(CheckPermit(Some(Arc::clone(&queue)))) {
                Ok(()) => return,
                // The client has disconnected: the permit goes to the next check.
                Err(mut unsent_permit) => unsent_permit.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peers_with_wrong_passwords_wait_longer() {
        let queue: Arc<PasswordQueue<u8>> = Arc::default();
        let running = [queue.acquire(9).await.unwrap(), queue.acquire(9).await.unwrap()];
        queue.record_result(1, false);
        let mut order = Vec::new();
        let (served_tx, mut calls) = tokio::sync::mpsc::unbounded_channel();
        for (number, peer) in [1, 1, 2, 2, 1].into_iter().enumerate() {
            let (queue, served_tx) = (Arc::clone(&queue), served_tx.clone());
            tokio::spawn(async move {
                let permit = queue.acquire(peer).await;
                served_tx.send((number, peer)).unwrap();
                drop(permit);
            });
            tokio::task::yield_now().await;
        }
        drop((served_tx, running));
        while let Some(call) = calls.recv().await {
            order.push(call);
        }
        assert_eq!(order, [(3, 2), (2, 2), (4, 1), (1, 1), (0, 1)]);
        assert_eq!(queue.state().running, 0);
    }

    #[tokio::test]
    async fn abandoned_checks_release_their_permits() {
        let queue: Arc<PasswordQueue<u8>> = Arc::default();
        let running = [queue.acquire(1).await.unwrap(), queue.acquire(1).await.unwrap()];
        let calls = [2, 2, 2].map(|peer| queue.state().wait(peer));
        let [abandoned, permit_sender, waiting_call] = calls;
        drop(abandoned);
        drop(running);
        // One check gets the permit and is dropped before it notices.
        drop((permit_sender, waiting_call));
        assert_eq!(queue.state().running, 0);
        assert!(queue.acquire(3).await.is_some());
    }

    #[tokio::test]
    async fn rejects_a_check_of_the_peer_with_the_most_checks() {
        let queue: Arc<PasswordQueue<u8>> = Arc::default();
        let running = [queue.acquire(1).await.unwrap(), queue.acquire(1).await.unwrap()];
        let mut waiting = Vec::new();
        for peer in std::iter::once(2).chain([1; MAX_WAITING_CHECKS - 1]) {
            let queue = Arc::clone(&queue);
            waiting.push(tokio::spawn(async move { queue.acquire(peer).await.is_some() }));
            tokio::task::yield_now().await;
        }
        let later_queue = Arc::clone(&queue);
        let last = tokio::spawn(async move { later_queue.acquire(3).await.is_some() });
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
