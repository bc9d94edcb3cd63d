//! The pages.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Bytes,
    extract::State as Shared,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};

use super::{
    compress,
    peer::{Guest, PageInHand},
    state::State,
};

/// Prometheus 3 refuses a page whose type it does not know.
const METRICS_TYPE: [(HeaderName, &str); 2] =
    [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (header::VARY, "accept-encoding")];
const GZIPPED: [(HeaderName, &str); 1] = [(header::CONTENT_ENCODING, "gzip")];

const LANDING: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head><meta charset=\"utf-8\"><title>mailflow-agent</title></head>
<body>
<h1>mailflow-agent</h1>
<p>Counts the mail flows that pass this machine.</p>
<ul>
<li><a href=\"/metrics\">Metrics</a></li>
<li><a href=\"/-/ready\">Ready</a></li>
<li><a href=\"/-/healthy\">Healthy</a></li>
</ul>
</body>
</html>
";

/// The pages over `state`.
pub(crate) fn router(state: Arc<dyn State>) -> Router {
    Router::new()
        .route("/", get(async || Html(LANDING)))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(healthy))
        .route("/healthz", get(healthy))
        .route("/-/ready", get(ready))
        .route("/readyz", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"))
        .with_state(state)
}

async fn metrics(
    Shared(state): Shared<Arc<dyn State>>,
    Extension(guest): Extension<Arc<Guest>>,
    headers: HeaderMap,
) -> Response {
    // Only so many pages are in memory, however slowly they are read.
    let Some(place) = guest.asks_for_a_page() else {
        let later = [(header::RETRY_AFTER, "5")];
        return (StatusCode::SERVICE_UNAVAILABLE, later, "too many pages are being read\n").into_response();
    };
    let gzip = compress::takes_gzip(&headers);
    // The page waits for the agent's locks: that must not hold up the runtime.
    let made = tokio::task::spawn_blocking(move || {
        let page = state.metrics()?;
        anyhow::Ok(if gzip {
            (GZIPPED, Bytes::from_owner(PageInHand { page: compress::gzip(&page)?, _place: place }))
                .into_response()
        } else {
            Bytes::from_owner(PageInHand { page: page.into_bytes(), _place: place }).into_response()
        })
    });
    let page = match made.await {
        Ok(page) => page,
        Err(error) => Err(error.into()),
    };
    match page {
        Ok(page) => (METRICS_TYPE, page).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics page cannot be made");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics page cannot be made; see the log\n")
                .into_response()
        }
    }
}

async fn healthy() -> &'static str {
    "healthy\n"
}

async fn ready(Shared(state): Shared<Arc<dyn State>>) -> (StatusCode, String) {
    if !state.ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned());
    }
    let warning = state.warning().map_or_else(String::new, |warning| format!("{warning}\n"));
    (StatusCode::OK, format!("ready\n{warning}"))
}
