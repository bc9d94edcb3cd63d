//! Who comes in: TLS and basic auth by the web-config file, which is read again when it changes.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Extension, Router,
    extract::{Request, State as Shared},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};

use super::{
    auth::{Admission, Auth},
    peer::Guest,
};
use crate::config::{
    Diagnostics,
    web::{WebConfig, WebConfigWatcher},
};

/// True if everybody may come in.
#[derive(Debug, Default)]
pub struct Door {
    watch: Option<Mutex<WebConfigWatcher>>,
    auth: Arc<Auth>,
}

impl Door {
    /// An open door: plain HTTP for everybody.
    pub fn open() -> Self {
        Self::default()
    }

    /// A door as a web-config file describes it.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn guarded(web_config: &Path) -> Result<Self, Diagnostics> {
        Ok(Self { watch: Some(Mutex::new(WebConfigWatcher::open(web_config)?)), auth: Arc::default() })
    }

    /// What is in force for a connection that begins now. A file that has changed for the worse is
    /// logged, and what was in force before stays.
    pub(crate) fn web(&self) -> Option<Arc<WebConfig>> {
        let mut watch = self.watch.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        match watch.reload_if_changed() {
            Some(Ok(())) => tracing::info!("the web-config file has changed and is in force"),
            Some(Err(faults)) => {
                faults.iter().for_each(|fault| tracing::error!("{fault}"));
                tracing::error!("the web-config file has changed and is refused; the one before stays");
            }
            None => {}
        }
        Some(Arc::clone(watch.web()))
    }

    /// The pages, for those who know a password where one is asked for.
    pub(crate) fn guard(&self, router: Router, web: Option<&Arc<WebConfig>>) -> Router {
        match web {
            Some(web) if !web.users.is_empty() => {
                router.layer(from_fn_with_state((Arc::clone(&self.auth), Arc::clone(web)), admit))
            }
            _ => router,
        }
    }
}

async fn admit(
    Shared((auth, web)): Shared<(Arc<Auth>, Arc<WebConfig>)>,
    Extension(guest): Extension<Arc<Guest>>,
    request: Request,
    next: Next,
) -> Response {
    match auth.admits(&web.users, request.headers(), guest.peer).await {
        Admission::Admitted => next.run(request).await,
        Admission::Refused => {
            let ask = [(header::WWW_AUTHENTICATE, "Basic")];
            (StatusCode::UNAUTHORIZED, ask, "unauthorized\n").into_response()
        }
        Admission::Busy => {
            let later = [(header::RETRY_AFTER, "5")];
            (StatusCode::TOO_MANY_REQUESTS, later, "too many passwords are tried\n").into_response()
        }
    }
}
