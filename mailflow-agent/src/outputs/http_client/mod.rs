//! JSON by HTTP POST, with a time limit for each request.
//!
//! A request goes only to the configured receiver: redirects are never followed.

mod connect;
mod proxy;
mod response;
mod tls;

use std::{cell::Cell, time::Duration};

use anyhow::{Context, anyhow};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
    http::{HeaderName, HeaderValue, Uri},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Runtime,
    time::timeout,
};

use self::connect::{ByteStream, HttpEndpoint, ReceiverTls, connect};
pub use self::response::ReceiverResponse;
use crate::config::{
    Credentials, Receiver, WebhookAddress,
    outputs::{
        files,
        url::{Url, UrlForm, origin},
    },
};
use mailflow_engine::time::Time;
use mailflow_kernel::clock;

/// Largest part of a response body that is logged, in characters.
const MAX_LOGGED_BODY_CHARS: usize = 500;
/// Largest part of a response body that is read, so that the connection can be reused.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Time for which an idle connection is kept. Servers keep one for 5 s or longer.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(4);
/// Length below which a part of a secret is not redacted.
const MIN_SECRET_LENGTH: usize = 5;

/// Reason why there is no response. The error names the receiver's origin.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// Failure to connect, which affects every request.
    Unreachable(anyhow::Error),
    /// Failure after the request was sent. The receiver may have processed it.
    Unanswered(anyhow::Error),
}

impl RequestError {
    /// Returns the error.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unreachable(error) | Self::Unanswered(error) => error,
        }
    }
}

/// Client that posts to one URL.
pub(crate) struct HttpClient {
    to: WebhookAddress,
    /// Suffix of the URL.
    path: &'static str,
    receiver: Receiver,
    runtime: Option<Runtime>,
    idle: Option<IdleConnection>,
}

/// Connection that waits for the next request.
struct IdleConnection {
    sender: SendRequest<String>,
    since: Time,
    /// URL and proxy of the connection.
    target_and_proxy: (Url, Option<Url>),
}

impl HttpClient {
    /// Creates a client that posts to `to` with the suffix `path`.
    pub(crate) fn new(to: WebhookAddress, path: &'static str, receiver: Receiver) -> Self {
        Self { to, path, receiver, runtime: None, idle: None }
    }

    /// Returns the receiver without secrets.
    pub(crate) fn display_name(&self) -> String {
        match &self.to {
            WebhookAddress::Inline(url) => url.to_string(),
            WebhookAddress::File(path) => files::url(path, UrlForm::Webhook)
                .map_or_else(|_| path.display().to_string(), |url| url.to_string()),
        }
    }

    /// Posts `body` with these headers in addition to the configured ones.
    pub(crate) fn send(
        &mut self,
        body: &str,
        headers: &[(&'static str, String)],
    ) -> Result<ReceiverResponse, RequestError> {
        let url = self.address().map_err(RequestError::Unreachable)?;
        self.send_to(&url, body, headers).map_err(|no_answer| match no_answer {
            RequestError::Unreachable(error) => RequestError::Unreachable(error.context(url.to_string())),
            RequestError::Unanswered(error) => RequestError::Unanswered(error.context(url.to_string())),
        })
    }

    /// Returns the URL, which may be read from a file.
    fn address(&self) -> anyhow::Result<Url> {
        match &self.to {
            WebhookAddress::Inline(url) => Ok(url.clone()),
            WebhookAddress::File(path) => {
                files::url(path, UrlForm::Webhook).map_err(|error| anyhow!("{}: {error}", path.display()))
            }
        }
    }

    /// Posts `body` to `url` within the time limit.
    fn send_to(
        &mut self,
        url: &Url,
        body: &str,
        headers: &[(&'static str, String)],
    ) -> Result<ReceiverResponse, RequestError> {
        let prepared = PreparedRequest::new(self, url, headers).map_err(RequestError::Unreachable)?;
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => runtime().map_err(RequestError::Unreachable)?,
        };
        let limit = self.receiver.timeout;
        let connected = Cell::new(false);
        // A timer must be created within its runtime.
        let result =
            runtime.block_on(async { timeout(limit, self.exchange(&prepared, body, &connected)).await });
        self.runtime = Some(runtime);
        let error = match result {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => error,
            Err(_) if connected.get() => anyhow!("no answer within {limit:?}"),
            Err(_) => anyhow!("no connection within {limit:?}"),
        };
        self.idle = None;
        Err(if connected.get() { RequestError::Unanswered(error) } else { RequestError::Unreachable(error) })
    }

    /// Sends a request over an idle connection, or over a new one.
    async fn exchange(
        &mut self,
        prepared: &PreparedRequest,
        body: &str,
        connected: &Cell<bool>,
    ) -> anyhow::Result<ReceiverResponse> {
        let target_and_proxy = (prepared.url.clone(), prepared.proxy.clone());
        let is_reusable = |idle: &IdleConnection| {
            idle.target_and_proxy == target_and_proxy
                && clock::now().since(idle.since) < IDLE_CONNECTION_TIMEOUT
        };
        let sent = clock::unix_nanos();
        if let Some(mut idle) = self.idle.take().filter(is_reusable)
            && idle.sender.ready().await.is_ok()
        {
            connected.set(true);
            match idle.sender.send_request(prepared.request(body)?).await {
                Ok(response) => return self.read_response(prepared, response, sent, idle.sender).await,
                // The receiver had closed the connection: the request is sent again on a new one.
                Err(_) => connected.set(false),
            }
        }
        let Receiver { tls, timeout, .. } = &self.receiver;
        let tls = match prepared.encrypted {
            true => Some(ReceiverTls { config: tls::config(tls)?, server_name: tls.server_name.clone() }),
            false => None,
        };
        let stream = connect(&prepared.end, prepared.proxy.as_ref(), tls.as_ref(), *timeout).await?;
        self.send_first(stream, prepared, body, (sent, connected)).await
    }

    /// Sends the first request of a connection.
    async fn send_first(
        &mut self,
        stream: impl ByteStream + 'static,
        prepared: &PreparedRequest,
        body: &str,
        (sent, connected): (i128, &Cell<bool>),
    ) -> anyhow::Result<ReceiverResponse> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        connected.set(true);
        let response = match sender.send_request(prepared.request(body)?).await {
            Ok(response) => response,
            Err(error) if error.is_parse() => {
                return Err(anyhow!("the receiver does not speak HTTP: {error}"));
            }
            Err(error) => return Err(anyhow!(describe_error(&error))),
        };
        self.read_response(prepared, response, sent, sender).await
    }

    /// Reads a response, and keeps the connection if the response is complete.
    async fn read_response(
        &mut self,
        prepared: &PreparedRequest,
        response: Response<Incoming>,
        sent: i128,
        sender: SendRequest<String>,
    ) -> anyhow::Result<ReceiverResponse> {
        let received = clock::unix_nanos();
        let (head, body) = response.into_parts();
        let body_excerpt = Limited::new(body, MAX_BODY_BYTES).collect().await.map(|body| body.to_bytes());
        if body_excerpt.is_ok() {
            let target_and_proxy = (prepared.url.clone(), prepared.proxy.clone());
            self.idle = Some(IdleConnection { sender, since: clock::now(), target_and_proxy });
        }
        let body_excerpt = body_excerpt.unwrap_or_default();
        Ok(ReceiverResponse {
            status: head.status,
            body_excerpt: prepared.redact(&body_excerpt),
            retry_after: response::retry_after(&head.headers, received),
            clock_offset: response::clock_offset(&head.headers, [sent, received]),
            redirect_origin: redirect_origin(head.status, &head.headers)
                .map(|to| prepared.redact(to.as_bytes())),
        })
    }
}

/// Posts `body` to `to` over an existing connection and reads the response. Needs a tokio runtime.
///
/// # Errors
/// The received bytes are not an HTTP response.
pub async fn post_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    to: &Url,
    receiver: Receiver,
    body: &str,
) -> anyhow::Result<ReceiverResponse> {
    let mut post = HttpClient::new(WebhookAddress::Inline(to.clone()), "", receiver);
    let prepared = PreparedRequest::new(&post, to, &[])?;
    post.send_first(stream, &prepared, body, (clock::unix_nanos(), &Cell::new(false))).await
}

impl Drop for HttpClient {
    fn drop(&mut self) {
        // A name lookup may block: dropping the client does not wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Creates a runtime for the requests of one client.
fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start a runtime for requests")
}

/// Request without its body. Files are read for each request, because their content may change.
struct PreparedRequest {
    url: Url,
    end: HttpEndpoint,
    proxy: Option<Url>,
    /// True if the receiver or the proxy uses TLS.
    encrypted: bool,
    target: Uri,
    headers: HeaderMap,
    /// Secrets to redact, longest first.
    secrets: Vec<String>,
}

impl PreparedRequest {
    /// Reads the credentials and builds the request's headers.
    fn new(post: &HttpClient, url: &Url, extra_headers: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let Receiver { credentials, headers: configured, proxy, .. } = &post.receiver;
        let end = HttpEndpoint::of(url)?;
        let scheme = if end.encrypted { "https" } else { "http" };
        let variable = |name: &str| std::env::var(name).ok();
        let proxy = proxy::choose(proxy, (scheme, &end.host, end.port), variable)?;
        let encrypted =
            end.encrypted || proxy.as_ref().is_some_and(|proxy| proxy.text().starts_with("https:"));
        let full_url = match post.path {
            "" => url.text().to_owned(),
            path => format!("{}{path}", url.text().trim_end_matches('/')),
        };
        let target: Uri = full_url.parse().map_err(|_| anyhow!("no address"))?;
        let mut secrets = vec![url.text().to_owned()];
        secrets.extend(target.path_and_query().map(|path| path.as_str().to_owned()));
        secrets.extend(parts(target.path()).chain(parts(target.query().unwrap_or_default())));
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, value(&end.authority)?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let agent = concat!("mailflow-agent/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        for (name, text) in extra_headers {
            headers.insert(*name, value(text)?);
        }
        for (name, text) in configured {
            secrets.push(text.clone());
            secrets.extend(parts(text));
            headers.append(HeaderName::try_from(name)?, value(text)?);
        }
        if let Some((authorization, secret)) = authorization(credentials)? {
            secrets.push(authorization.clone());
            secrets.extend(parts(&authorization));
            secrets.push(secret);
            headers.insert(header::AUTHORIZATION, value(&authorization)?);
        }
        // A plain-text request through a proxy contains the whole URL.
        let target = match &proxy {
            Some(proxy) if !end.encrypted => {
                if let Some(authorization) = connect::authorization(proxy) {
                    headers.insert(header::PROXY_AUTHORIZATION, authorization);
                }
                target
            }
            _ => target.path_and_query().map_or("/", |path| path.as_str()).parse()?,
        };
        if let Some(proxy) = &proxy {
            secrets.extend(parts(proxy.text().split_once("://").map_or("", |(_, rest)| rest)));
        }
        secrets.retain(|secret| secret.len() >= MIN_SECRET_LENGTH);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Self { url: url.clone(), end, proxy, encrypted, target, headers, secrets })
    }

    /// Returns the request with `body`.
    fn request(&self, body: &str) -> anyhow::Result<Request<String>> {
        let mut request = Request::post(self.target.clone()).body(body.to_owned())?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// Returns the beginning of a response body on one line, without secrets.
    fn redact(&self, body_excerpt: &[u8]) -> String {
        let mut body_excerpt = String::from_utf8_lossy(body_excerpt).into_owned();
        // The origin is not a secret: only the whole URL is.
        for secret in &self.secrets {
            body_excerpt = body_excerpt.replace(secret, "...");
        }
        body_excerpt.trim().chars().take(MAX_LOGGED_BODY_CHARS).flat_map(char::escape_debug).collect()
    }
}

/// Returns the parts of a path, a query or a header that may be secrets.
fn parts(text: &str) -> impl Iterator<Item = String> {
    text.split(['/', '&', '=', ' ', ',', ';', ':', '@', '?']).map(str::to_owned)
}

/// Converts a text to a header value.
fn value(text: &str) -> anyhow::Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| anyhow!("a header has characters that HTTP does not allow"))
}

/// Returns the header value and the secret in it.
fn authorization(credentials: &Credentials) -> anyhow::Result<Option<(String, String)>> {
    let named = |path: &std::path::Path, error: String| anyhow!("{}: {error}", path.display());
    Ok(match credentials {
        Credentials::None => None,
        Credentials::Basic { username, password_file: path } => {
            let password = files::secret(path).map_err(|error| named(path, error))?;
            Some((format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))), password))
        }
        Credentials::Bearer { token_file: path } => {
            let token = files::token(path).map_err(|error| named(path, error))?;
            Some((format!("Bearer {token}"), token))
        }
    })
}

/// Returns the origin of a redirect's target without secrets.
fn redirect_origin(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    let location = headers.get(header::LOCATION).filter(|_| status.is_redirection())?;
    let location = location.to_str().ok()?;
    Some(if location.contains("://") { origin(location) } else { "another path".to_owned() })
}

/// Formats an error with its causes.
fn describe_error(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        // A receiver may refuse the client certificate after the handshake.
        if let Some(words) = inner.downcast_ref::<std::io::Error>().and_then(tls::describe_tls_error) {
            return words;
        }
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn redacts_secrets_in_responses() {
        let to = Url::parse("http://receiver.example/PLANTED1?key=PLANTED2", UrlForm::Webhook).unwrap();
        let headers = vec![("x-token".to_owned(), "PLANTED3".to_owned())];
        let receiver = Receiver { headers, proxy: crate::config::Proxy::Off, ..Receiver::default() };
        let shown = |response: &'static str| {
            runtime().unwrap().block_on(async {
                let (client, mut server) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move {
                    let _ = server.read(&mut [0; 1 << 12]).await;
                    server.write_all(response.as_bytes()).await.unwrap();
                });
                format!("{:?}", post_over(client, &to, receiver.clone(), "{}").await)
            })
        };
        for response in [
            "HTTP/1.1 400 Bad\r\n\r\nno PLANTED1 with PLANTED2 and PLANTED3",
            "HTTP/1.1 301 Moved\r\nLocation: https://PLANTED1.example/PLANTED2\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: http://PLANTED2:PLANTED3@other.example/\r\n\r\n",
            "HTTP/1.1 307 Found\r\nLocation: x://PLANTED1\r\n\r\n",
            "PLANTED1 PLANTED2\r\n\r\n",
        ] {
            assert!(!shown(response).contains("PLANTED"), "{}", shown(response));
        }
        assert!(
            shown("HTTP/1.1 301 Moved\r\nLocation: https://o.example/\r\n\r\n")
                .contains("https://o.example:443")
        );
    }
}
