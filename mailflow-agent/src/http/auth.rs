//! Basic auth (RFC 7617) against bcrypt hashes.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{password_queue::Turns, peer::Peer};

/// Names of users, with the hashes of their passwords.
type Users = [(String, String)];

/// Credentials remembered as right, and as wrong; more are attempts to fill memory.
const REMEMBERED: usize = 1_000;
/// The rest of a hash behind its cost: of no password that anybody knows.
const REST: &str = "CCCCCCCCCCCCCCCCCCCCC.mailflowmailflowmailflowmailflm";

/// Returns true if a password is that of a hash.
type Verify = fn(&str, &str) -> bool;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may pass.
    Admitted,
    /// The credentials are missing or wrong.
    Refused,
    /// Too many passwords wait to be checked.
    Busy,
}

/// Checks passwords. What was checked once is remembered and costs no turn.
#[derive(Debug)]
pub(crate) struct Auth {
    right: Mutex<HashSet<[u8; 32]>>,
    wrong: Mutex<HashSet<[u8; 32]>>,
    turns: Arc<Turns<Peer>>,
    verify: Verify,
}

impl Default for Auth {
    fn default() -> Self {
        Self::with(|password, hash| bcrypt::verify(password, hash).unwrap_or(false))
    }
}

impl Auth {
    fn with(verify: Verify) -> Self {
        Self { right: Mutex::default(), wrong: Mutex::default(), turns: Arc::default(), verify }
    }

    /// Authenticates a request of `peer` with these headers.
    pub(crate) async fn admits(&self, users: &Users, headers: &HeaderMap, peer: Peer) -> Admission {
        let Some((user, password)) = credentials(headers) else { return Admission::Refused };
        let hash = users.iter().find(|(name, _)| **name == user).map(|(_, hash)| hash.clone());
        let name = digest([hash.as_deref().unwrap_or(""), &user, &password]);
        if hash.is_some() && locked(&self.right).contains(&name) {
            return Admission::Admitted;
        }
        if locked(&self.wrong).contains(&name) {
            return Admission::Refused;
        }
        let Some(turn) = self.turns.take(peer).await else { return Admission::Busy };
        let (verify, highest) = (self.verify, highest(users));
        let turns = Arc::clone(&self.turns);
        // The turn ends with the check, also where nobody waits for it any more.
        let checked = tokio::task::spawn_blocking(move || {
            let right = check(verify, hash.as_deref(), highest, &password);
            turns.book(peer, right);
            drop(turn);
            right
        });
        let right = matches!(checked.await, Ok(true));
        remember(if right { &self.right } else { &self.wrong }, name);
        if right { Admission::Admitted } else { Admission::Refused }
    }
}

/// Checks a password. A wrong one costs the same for every user and for a name that is none: as much as the dearest
/// hash of all, so that names cannot be told apart by time.
fn check(verify: Verify, hash: Option<&str>, highest: u32, password: &str) -> bool {
    let Some(hash) = hash else {
        verify(password, &nobodys(highest));
        return false;
    };
    if verify(password, hash) {
        return true;
    }
    // 2^cost steps were taken; with those of each cost from there on they are 2^highest.
    for cost in cost(hash).unwrap_or(highest)..highest {
        verify(password, &nobodys(cost));
    }
    false
}

/// A hash of this cost that no password has.
fn nobodys(cost: u32) -> String {
    format!("$2b${cost:02}${REST}")
}

/// The highest cost of the users' hashes.
fn highest(users: &Users) -> u32 {
    users.iter().filter_map(|(_, hash)| cost(hash)).max().unwrap_or(bcrypt::DEFAULT_COST)
}

/// The cost of a hash: the binary logarithm of its steps.
fn cost(hash: &str) -> Option<u32> {
    hash.split('$').nth(2)?.parse().ok()
}

fn digest(parts: [&str; 3]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn remember(set: &Mutex<HashSet<[u8; 32]>>, name: [u8; 32]) {
    let mut set = locked(set);
    if set.len() >= REMEMBERED {
        set.clear();
    }
    set.insert(name);
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// User and password of `Authorization: Basic ...`.
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, code) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(code.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    };

    use super::*;

    const PEER: Peer = Peer(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn users(users: &[(&str, u32)]) -> Vec<(String, String)> {
        users.iter().map(|(name, cost)| ((*name).to_owned(), nobodys(*cost))).collect()
    }

    fn headers(user: &str, password: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let code = STANDARD.encode(format!("{user}:{password}"));
        headers.insert(header::AUTHORIZATION, format!("Basic {code}").parse().unwrap());
        headers
    }

    #[test]
    fn the_dummy_is_a_hash_of_its_cost() {
        assert!(!bcrypt::verify("x", &nobodys(4)).unwrap());
        assert_eq!(cost(&nobodys(4)), Some(4));
    }

    #[tokio::test]
    async fn a_wrong_password_costs_the_same_for_every_name() {
        static STEPS: AtomicU64 = AtomicU64::new(0);
        let auth = Auth::with(|password, hash| {
            STEPS.fetch_add(1 << cost(hash).unwrap(), Ordering::Relaxed);
            password == "right"
        });
        let users = users(&[("cheap", 4), ("middle", 10), ("dear", 13)]);
        for user in ["cheap", "middle", "dear", "nobody", ""] {
            STEPS.store(0, Ordering::Relaxed);
            let admitted = auth.admits(&users, &headers(user, "wrong"), PEER).await;
            assert_eq!((admitted, STEPS.load(Ordering::Relaxed)), (Admission::Refused, 1 << 13), "{user}");
            let again = auth.admits(&users, &headers(user, "wrong"), PEER).await;
            assert_eq!((again, STEPS.load(Ordering::Relaxed)), (Admission::Refused, 1 << 13), "{user} again");
        }
        assert_eq!(auth.admits(&users, &headers("cheap", "right"), PEER).await, Admission::Admitted);
        assert_eq!(auth.admits(&users, &headers("nobody", "right"), PEER).await, Admission::Refused);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_login_that_is_known_waits_for_no_other_and_few_are_checked_at_once() {
        static BUSY: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        static HELD: AtomicBool = AtomicBool::new(false);
        let auth = Arc::new(Auth::with(|password, _| {
            MOST.fetch_max(BUSY.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            while HELD.load(Ordering::SeqCst) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            BUSY.fetch_sub(1, Ordering::SeqCst);
            password == "right"
        }));
        let users = Arc::new(users(&[("scraper", 4)]));
        let right = headers("scraper", "right");
        assert_eq!(auth.admits(&users, &right, PEER).await, Admission::Admitted);
        HELD.store(true, Ordering::SeqCst);
        let wrong: Vec<_> = (0..40)
            .map(|number| {
                let (auth, users) = (Arc::clone(&auth), Arc::clone(&users));
                let headers = headers("scraper", &format!("wrong {number}"));
                tokio::spawn(async move { auth.admits(&users, &headers, PEER).await })
            })
            .collect();
        while BUSY.load(Ordering::SeqCst) < crate::http::password_queue::AT_ONCE {
            tokio::task::yield_now().await;
        }
        assert_eq!(auth.admits(&users, &right, PEER).await, Admission::Admitted, "while all others wait");
        HELD.store(false, Ordering::SeqCst);
        let mut outcomes = Vec::new();
        for one in wrong {
            outcomes.push(one.await.unwrap());
        }
        assert!(outcomes.iter().all(|outcome| *outcome != Admission::Admitted), "{outcomes:?}");
        assert!(outcomes.contains(&Admission::Busy), "the queue is bounded: {outcomes:?}");
        assert_eq!(MOST.load(Ordering::SeqCst), crate::http::password_queue::AT_ONCE);
    }
}
