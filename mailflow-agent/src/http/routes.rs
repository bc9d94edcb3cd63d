//! Pages of the metrics port.

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
    peer::{ClientConnection, PageBody},
    provider::MetricsProvider,
};

/// Headers of the metrics page. Prometheus 3 refuses a page of an unknown content type.
const METRICS_HEADERS: [(HeaderName, &str); 2] =
    [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (header::VARY, "accept-encoding")];
const GZIP_HEADERS: [(HeaderName, &str); 1] = [(header::CONTENT_ENCODING, "gzip")];

const LANDING_PAGE: &str = "<!DOCTYPE html>
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

/// Returns the router of the pages.
pub(crate) fn router(provider: Arc<dyn MetricsProvider>) -> Router {
    Router::new()
        .route("/", get(async || Html(LANDING_PAGE)))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(healthy))
        .route("/healthz", get(healthy))
        .route("/-/ready", get(ready))
        .route("/readyz", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"))
        .with_state(provider)
}

/// Serves the metrics page.
async fn metrics(
    Shared(provider): Shared<Arc<dyn MetricsProvider>>,
    Extension(client): Extension<Arc<ClientConnection>>,
    headers: HeaderMap,
) -> Response {
    // The number of pages in memory is limited, because a client may read slowly.
    let Some(page_permit) = client.reserve_page() else {
        let retry_after = [(header::RETRY_AFTER, "5")];
        return (StatusCode::SERVICE_UNAVAILABLE, retry_after, "too many pages are being read\n")
            .into_response();
    };
    let gzip = compress::accepts_gzip(&headers);
    // Rendering waits for locks of the agent and must not block the runtime.
    let rendered = tokio::task::spawn_blocking(move || {
        let page = provider.metrics()?;
        anyhow::Ok(if gzip {
            (GZIP_HEADERS, Bytes::from_owner(PageBody { page: compress::gzip(&page)?, _permit: page_permit }))
                .into_response()
        } else {
            Bytes::from_owner(PageBody { page: page.into_bytes(), _permit: page_permit }).into_response()
        })
    });
    let page = match rendered.await {
        Ok(page) => page,
        Err(error) => Err(error.into()),
    };
    match page {
        Ok(page) => (METRICS_HEADERS, page).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to render the metrics page");
            (StatusCode::INTERNAL_SERVER_ERROR, "failed to render the metrics page; see the log\n")
                .into_response()
        }
    }
}

/// Answers the liveness probe.
async fn healthy() -> &'static str {
    "healthy\n"
}

/// Answers the readiness probe, with a warning if there is one.
async fn ready(Shared(provider): Shared<Arc<dyn MetricsProvider>>) -> (StatusCode, String) {
    if !provider.ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned());
    }
    let warning = provider.warning().map_or_else(String::new, |warning| format!("{warning}\n"));
    (StatusCode::OK, format!("ready\n{warning}"))
}
