//! Basic auth (RFC 7617) against bcrypt hashes.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{password_queue::PasswordQueue, peer::Peer};

/// Names of users with the hashes of their passwords.
type Users = [(String, String)];

/// Largest number of remembered valid credentials, and of invalid ones. More are an attempt to fill the
/// memory.
const MAX_REMEMBERED_CREDENTIALS: usize = 1_000;
/// Salt and digest of a dummy hash, whose password is unknown.
const DUMMY_HASH_TAIL: &str = "CCCCCCCCCCCCCCCCCCCCC.mailflowmailflowmailflowmailflm";

/// Function that returns true if a password matches a hash.
type Verify = fn(&str, &str) -> bool;

/// Result of authenticating a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthOutcome {
    /// Valid credentials.
    Authenticated,
    /// Missing or wrong credentials.
    Refused,
    /// Too many waiting checks.
    Busy,
}

/// Password checker. Remembered credentials need no permit.
#[derive(Debug)]
pub(crate) struct Authenticator {
    valid: Mutex<HashSet<[u8; 32]>>,
    invalid: Mutex<HashSet<[u8; 32]>>,
    queue: Arc<PasswordQueue<Peer>>,
    verify: Verify,
}

impl Default for Authenticator {
    fn default() -> Self {
        Self::with(|password, hash| bcrypt::verify(password, hash).unwrap_or(false))
    }
}

impl Authenticator {
    /// Creates a checker with another function to verify passwords.
    fn with(verify: Verify) -> Self {
        Self { valid: Mutex::default(), invalid: Mutex::default(), queue: Arc::default(), verify }
    }

    /// Authenticates a request of `peer` with these headers.
    pub(crate) async fn authenticate(&self, users: &Users, headers: &HeaderMap, peer: Peer) -> AuthOutcome {
        let Some((user, password)) = credentials(headers) else { return AuthOutcome::Refused };
        let hash = users.iter().find(|(name, _)| **name == user).map(|(_, hash)| hash.clone());
        let fingerprint = digest([hash.as_deref().unwrap_or(""), &user, &password]);
        if hash.is_some() && lock(&self.valid).contains(&fingerprint) {
            return AuthOutcome::Authenticated;
        }
        if lock(&self.invalid).contains(&fingerprint) {
            return AuthOutcome::Refused;
        }
        let Some(permit) = self.queue.acquire(peer).await else { return AuthOutcome::Busy };
        let (verify, highest_cost) = (self.verify, highest_cost(users));
        let queue = Arc::clone(&self.queue);
        // The permit lasts until the check ends, even if the client has disconnected.
        let checked = tokio::task::spawn_blocking(move || {
            let is_correct = check(verify, hash.as_deref(), highest_cost, &password);
            queue.record_result(peer, is_correct);
            drop(permit);
            is_correct
        });
        let is_correct = matches!(checked.await, Ok(true));
        remember(if is_correct { &self.valid } else { &self.invalid }, fingerprint);
        if is_correct { AuthOutcome::Authenticated } else { AuthOutcome::Refused }
    }
}

/// Checks a password. A wrong password takes the same time for every user and for an unknown name: as much as
/// the most expensive hash. So names cannot be distinguished by time.
fn check(verify: Verify, hash: Option<&str>, highest_cost: u32, password: &str) -> bool {
    let Some(hash) = hash else {
        verify(password, &dummy_hash(highest_cost));
        return false;
    };
    if verify(password, hash) {
        return true;
    }
    // The check took 2^cost steps. With those of each cost from there on the sum is 2^highest_cost.
    for cost in cost(hash).unwrap_or(highest_cost)..highest_cost {
        verify(password, &dummy_hash(cost));
    }
    false
}

/// Returns a hash of this cost whose password is unknown.
fn dummy_hash(cost: u32) -> String {
    format!("$2b${cost:02}${DUMMY_HASH_TAIL}")
}

/// Returns the highest cost of the users' hashes.
fn highest_cost(users: &Users) -> u32 {
    users.iter().filter_map(|(_, hash)| cost(hash)).max().unwrap_or(bcrypt::DEFAULT_COST)
}

/// Returns the cost of a hash: the binary logarithm of its steps.
fn cost(hash: &str) -> Option<u32> {
    hash.split('$').nth(2)?.parse().ok()
}

/// Returns the digest under which credentials are remembered.
fn digest(parts: [&str; 3]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// Remembers credentials. A full set is cleared first.
fn remember(set: &Mutex<HashSet<[u8; 32]>>, fingerprint: [u8; 32]) {
    let mut set = lock(set);
    if set.len() >= MAX_REMEMBERED_CREDENTIALS {
        set.clear();
    }
    set.insert(fingerprint);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns user and password of `Authorization: Basic ...`.
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
        users.iter().map(|(name, cost)| ((*name).to_owned(), dummy_hash(*cost))).collect()
    }

    fn headers(user: &str, password: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let code = STANDARD.encode(format!("{user}:{password}"));
        headers.insert(header::AUTHORIZATION, format!("Basic {code}").parse().unwrap());
        headers
    }

    #[test]
    fn dummy_hash_is_valid_and_has_its_cost() {
        assert!(!bcrypt::verify("x", &dummy_hash(4)).unwrap());
        assert_eq!(cost(&dummy_hash(4)), Some(4));
    }

    #[tokio::test]
    async fn a_wrong_password_takes_the_same_time_for_every_name() {
        static STEPS: AtomicU64 = AtomicU64::new(0);
        let auth = Authenticator::with(|password, hash| {
            STEPS.fetch_add(1 << cost(hash).unwrap(), Ordering::Relaxed);
            password == "right"
        });
        let users = users(&[("cheap", 4), ("middle", 10), ("dear", 13)]);
        for user in ["cheap", "middle", "dear", "nobody", ""] {
            STEPS.store(0, Ordering::Relaxed);
            let admitted = auth.authenticate(&users, &headers(user, "wrong"), PEER).await;
            assert_eq!((admitted, STEPS.load(Ordering::Relaxed)), (AuthOutcome::Refused, 1 << 13), "{user}");
            let repeated = auth.authenticate(&users, &headers(user, "wrong"), PEER).await;
            assert_eq!(
                (repeated, STEPS.load(Ordering::Relaxed)),
                (AuthOutcome::Refused, 1 << 13),
                "{user} again"
            );
        }
        assert_eq!(
            auth.authenticate(&users, &headers("cheap", "right"), PEER).await,
            AuthOutcome::Authenticated
        );
        assert_eq!(auth.authenticate(&users, &headers("nobody", "right"), PEER).await, AuthOutcome::Refused);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn known_credentials_do_not_wait_and_checks_are_limited() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        static PEAK_RUNNING: AtomicUsize = AtomicUsize::new(0);
        static IS_BLOCKED: AtomicBool = AtomicBool::new(false);
        let auth = Arc::new(Authenticator::with(|password, _| {
            PEAK_RUNNING.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            while IS_BLOCKED.load(Ordering::SeqCst) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            RUNNING.fetch_sub(1, Ordering::SeqCst);
            password == "right"
        }));
        let users = Arc::new(users(&[("scraper", 4)]));
        let valid_headers = headers("scraper", "right");
        assert_eq!(auth.authenticate(&users, &valid_headers, PEER).await, AuthOutcome::Authenticated);
        IS_BLOCKED.store(true, Ordering::SeqCst);
        let wrong: Vec<_> = (0..40)
            .map(|number| {
                let (auth, users) = (Arc::clone(&auth), Arc::clone(&users));
                let headers = headers("scraper", &format!("wrong {number}"));
                tokio::spawn(async move { auth.authenticate(&users, &headers, PEER).await })
            })
            .collect();
        while RUNNING.load(Ordering::SeqCst) < crate::http::password_queue::MAX_CONCURRENT_CHECKS {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            auth.authenticate(&users, &valid_headers, PEER).await,
            AuthOutcome::Authenticated,
            "while all others wait"
        );
        IS_BLOCKED.store(false, Ordering::SeqCst);
        let mut outcomes = Vec::new();
        for one in wrong {
            outcomes.push(one.await.unwrap());
        }
        assert!(outcomes.iter().all(|outcome| *outcome != AuthOutcome::Authenticated), "{outcomes:?}");
        assert!(outcomes.contains(&AuthOutcome::Busy), "the queue is bounded: {outcomes:?}");
        assert_eq!(PEAK_RUNNING.load(Ordering::SeqCst), crate::http::password_queue::MAX_CONCURRENT_CHECKS);
    }
}
