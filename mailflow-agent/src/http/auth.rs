//! Basic auth (RFC 7617) against bcrypt hashes.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::config::web::Web;

/// Credentials remembered as good; more than this are attempts to fill memory.
const REMEMBERED: usize = 100;

/// Checks passwords. A hash costs a tenth of a second on purpose: what was good once is remembered, and
/// only one password is tried at a time.
#[derive(Debug)]
pub(super) struct Auth {
    good: Mutex<HashSet<[u8; 32]>>,
    trying: Semaphore,
}

impl Default for Auth {
    fn default() -> Self {
        Self { good: Mutex::default(), trying: Semaphore::new(1) }
    }
}

impl Auth {
    /// Whether a request with these headers may pass.
    pub(super) async fn admits(self: &Arc<Self>, web: &Web, headers: &HeaderMap) -> bool {
        let Some((user, password)) = credentials(headers) else { return false };
        let known = web.users.iter().find(|(name, _)| *name == user);
        // An unknown name takes as long as a wrong password: it must not be told from one.
        let Some((_, hash)) = known.or(web.users.first()) else { return false };
        let mut digest = Sha256::new();
        for part in [hash, &user, &password] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        let name: [u8; 32] = digest.finalize().into();
        let is_known = known.is_some();
        if is_known && self.good().contains(&name) {
            return true;
        }
        let Ok(_turn) = self.trying.acquire().await else { return false };
        let hash = hash.clone();
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(&password, &hash));
        let admitted = is_known && matches!(verified.await, Ok(Ok(true)));
        if admitted {
            let mut good = self.good();
            if good.len() >= REMEMBERED {
                good.clear();
            }
            good.insert(name);
        }
        admitted
    }

    fn good(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
