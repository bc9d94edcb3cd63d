//! Access control of the metrics server: TLS and basic auth by the web-config file, which is reloaded when it
//! changes.

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
    auth::{AuthOutcome, Authenticator},
    peer::ClientConnection,
};
use crate::config::{
    Diagnostics,
    web::{WebConfig, WebConfigWatcher},
};

/// Access control. Without a web-config file everyone has access.
#[derive(Debug, Default)]
pub struct AccessControl {
    web_config: Option<Mutex<WebConfigWatcher>>,
    auth: Arc<Authenticator>,
}

impl AccessControl {
    /// Creates access control without restrictions: plain HTTP for everyone.
    pub fn unrestricted() -> Self {
        Self::default()
    }

    /// Creates access control by a web-config file.
    ///
    /// # Errors
    /// All errors of the file.
    pub fn from_web_config(web_config: &Path) -> Result<Self, Diagnostics> {
        Ok(Self { web_config: Some(Mutex::new(WebConfigWatcher::open(web_config)?)), auth: Arc::default() })
    }

    /// Returns the settings in force for a new connection. An invalid change of the file is logged, and the
    /// previous settings stay in force.
    pub(crate) fn current_web(&self) -> Option<Arc<WebConfig>> {
        let mut web_config = self.web_config.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        match web_config.reload_if_changed() {
            Some(Ok(())) => tracing::info!("the web-config file has changed and is in force"),
            Some(Err(faults)) => {
                faults.iter().for_each(|fault| tracing::error!("{fault}"));
                tracing::error!("the web-config file has changed and is refused; the one before stays");
            }
            None => {}
        }
        Some(Arc::clone(web_config.web()))
    }

    /// Adds basic auth to the pages if the settings have users.
    pub(crate) fn auth_layer(&self, router: Router, web: Option<&Arc<WebConfig>>) -> Router {
        match web {
            Some(web) if !web.users.is_empty() => {
                router.layer(from_fn_with_state((Arc::clone(&self.auth), Arc::clone(web)), authorise))
            }
            _ => router,
        }
    }
}

/// Passes a request with valid credentials on, and answers any other one.
async fn authorise(
    Shared((auth, web)): Shared<(Arc<Authenticator>, Arc<WebConfig>)>,
    Extension(client): Extension<Arc<ClientConnection>>,
    request: Request,
    next: Next,
) -> Response {
    match auth.authenticate(&web.users, request.headers(), client.peer).await {
        AuthOutcome::Authenticated => next.run(request).await,
        AuthOutcome::Refused => {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic")];
            (StatusCode::UNAUTHORIZED, challenge, "unauthorized\n").into_response()
        }
        AuthOutcome::Busy => {
            let retry_after = [(header::RETRY_AFTER, "5")];
            (StatusCode::TOO_MANY_REQUESTS, retry_after, "too many password checks are waiting\n")
                .into_response()
        }
    }
}
