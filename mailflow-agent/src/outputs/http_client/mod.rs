//! JSON by HTTP POST, with a time limit for everything.
//!
//! What is posted goes to the receiver that is named, and to no other: a redirect is never followed.

mod answer;
mod connect;
mod proxy;
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

pub use self::answer::Answer;
use self::connect::{End, Stream, Tls, connect};
use crate::config::{
    Credentials, Receiver, WebhookAddress,
    outputs::{
        files,
        url::{Url, UrlForm, origin},
    },
};
use mailflow_engine::time::Time;
use mailflow_kernel::clock;

/// How much of an answer that refuses is logged.
const SHOWN: usize = 500;
/// How much of an answer is read, so that the connection serves for the next request.
const READ: usize = 64 << 10;
/// How long a connection is kept for the next request. Servers keep one for 5 s and more.
const KEPT: Duration = Duration::from_secs(4);
/// Parts of a secret that are shorter are no secrets by themselves.
const SHORTEST_SECRET: usize = 5;

/// Why there is no answer. Both name the receiver's origin.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// There is no connection: what is wrong concerns every request.
    Unreachable(anyhow::Error),
    /// The request was on its way; the receiver may have it.
    Slow(anyhow::Error),
}

impl NoAnswer {
    /// The reason.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unreachable(error) | Self::Slow(error) => error,
        }
    }
}

/// Posts to one address.
pub(crate) struct Post {
    to: WebhookAddress,
    /// What is appended to the address.
    path: &'static str,
    receiver: Receiver,
    runtime: Option<Runtime>,
    kept: Option<Kept>,
}

/// A connection that waits for the next request.
struct Kept {
    sender: SendRequest<String>,
    since: Time,
    /// What it was made for: the address and the proxy.
    made_for: (Url, Option<Url>),
}

impl Post {
    /// Posts to `to` with `path` behind it, as `receiver` describes it.
    pub(crate) fn new(to: WebhookAddress, path: &'static str, receiver: Receiver) -> Self {
        Self { to, path, receiver, runtime: None, kept: None }
    }

    /// The receiver, as it may be shown.
    pub(crate) fn shown(&self) -> String {
        match &self.to {
            WebhookAddress::Inline(url) => url.to_string(),
            WebhookAddress::File(path) => files::url(path, UrlForm::Webhook)
                .map_or_else(|_| path.display().to_string(), |url| url.to_string()),
        }
    }

    /// Posts `body` with these headers beside the configured ones.
    pub(crate) fn send(
        &mut self,
        body: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Answer, NoAnswer> {
        let url = self.address().map_err(NoAnswer::Unreachable)?;
        self.send_to(&url, body, headers).map_err(|no_answer| match no_answer {
            NoAnswer::Unreachable(error) => NoAnswer::Unreachable(error.context(url.to_string())),
            NoAnswer::Slow(error) => NoAnswer::Slow(error.context(url.to_string())),
        })
    }

    fn address(&self) -> anyhow::Result<Url> {
        match &self.to {
            WebhookAddress::Inline(url) => Ok(url.clone()),
            WebhookAddress::File(path) => {
                files::url(path, UrlForm::Webhook).map_err(|error| anyhow!("{}: {error}", path.display()))
            }
        }
    }

    fn send_to(
        &mut self,
        url: &Url,
        body: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Answer, NoAnswer> {
        let prepared = Prepared::new(self, url, headers).map_err(NoAnswer::Unreachable)?;
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => runtime().map_err(NoAnswer::Unreachable)?,
        };
        let limit = self.receiver.timeout;
        let connected = Cell::new(false);
        // A timer belongs to the runtime that it is made in.
        let result =
            runtime.block_on(async { timeout(limit, self.exchange(&prepared, body, &connected)).await });
        self.runtime = Some(runtime);
        let error = match result {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) if connected.get() => anyhow!("no answer within {limit:?}"),
            Err(_) => anyhow!("no connection within {limit:?}"),
        };
        self.kept = None;
        Err(if connected.get() { NoAnswer::Slow(error) } else { NoAnswer::Unreachable(error) })
    }

    async fn exchange(
        &mut self,
        prepared: &Prepared,
        body: &str,
        connected: &Cell<bool>,
    ) -> anyhow::Result<Answer> {
        let made_for = (prepared.url.clone(), prepared.proxy.clone());
        let fresh = |kept: &Kept| kept.made_for == made_for && clock::now().since(kept.since) < KEPT;
        let sent = clock::unix_nanos();
        if let Some(mut kept) = self.kept.take().filter(fresh)
            && kept.sender.ready().await.is_ok()
        {
            connected.set(true);
            match kept.sender.send_request(prepared.request(body)?).await {
                Ok(answer) => return self.finish(prepared, answer, sent, kept.sender).await,
                // The receiver had closed it: the request goes out once more.
                Err(_) => connected.set(false),
            }
        }
        let Receiver { tls, timeout, .. } = &self.receiver;
        let tls = match prepared.encrypted {
            true => Some(Tls { config: tls::config(tls)?, server_name: tls.server_name.clone() }),
            false => None,
        };
        let stream = connect(&prepared.end, prepared.proxy.as_ref(), tls.as_ref(), *timeout).await?;
        self.begin(stream, prepared, body, (sent, connected)).await
    }

    /// Sends the first request of a connection.
    async fn begin(
        &mut self,
        stream: impl Stream + 'static,
        prepared: &Prepared,
        body: &str,
        (sent, connected): (i128, &Cell<bool>),
    ) -> anyhow::Result<Answer> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        connected.set(true);
        let answer = match sender.send_request(prepared.request(body)?).await {
            Ok(answer) => answer,
            Err(error) if error.is_parse() => {
                return Err(anyhow!("the receiver does not speak HTTP: {error}"));
            }
            Err(error) => return Err(anyhow!(chain(&error))),
        };
        self.finish(prepared, answer, sent, sender).await
    }

    /// Reads an answer, and keeps the connection where the answer is whole.
    async fn finish(
        &mut self,
        prepared: &Prepared,
        answer: Response<Incoming>,
        sent: i128,
        sender: SendRequest<String>,
    ) -> anyhow::Result<Answer> {
        let received = clock::unix_nanos();
        let (head, body) = answer.into_parts();
        let said = Limited::new(body, READ).collect().await.map(|body| body.to_bytes());
        if said.is_ok() {
            let made_for = (prepared.url.clone(), prepared.proxy.clone());
            self.kept = Some(Kept { sender, since: clock::now(), made_for });
        }
        let said = said.unwrap_or_default();
        Ok(Answer {
            status: head.status,
            said: prepared.scrubbed(&said),
            retry_after: answer::retry_after(&head.headers, received),
            clock_offset: answer::clock_offset(&head.headers, [sent, received]),
            moved_to: moved_to(head.status, &head.headers).map(|to| prepared.scrubbed(to.as_bytes())),
        })
    }
}

/// Posts `body` to `to` over a connection that is made already, and reads the answer. Needs a tokio runtime.
///
/// # Errors
/// The bytes received are no HTTP answer.
pub async fn post_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    to: &Url,
    receiver: Receiver,
    body: &str,
) -> anyhow::Result<Answer> {
    let mut post = Post::new(WebhookAddress::Inline(to.clone()), "", receiver);
    let prepared = Prepared::new(&post, to, &[])?;
    post.begin(stream, &prepared, body, (clock::unix_nanos(), &Cell::new(false))).await
}

impl Drop for Post {
    fn drop(&mut self) {
        // A look-up of a name may hang: nothing waits for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime for requests")
}

/// A request, but for its body. Files are read for it, as what is in them may change at any moment.
struct Prepared {
    url: Url,
    end: End,
    proxy: Option<Url>,
    /// TLS, with the receiver or with the proxy.
    encrypted: bool,
    target: Uri,
    headers: HeaderMap,
    /// What must not be shown, the longest first.
    secrets: Vec<String>,
}

impl Prepared {
    fn new(post: &Post, url: &Url, more: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let Receiver { credentials, headers: configured, proxy, .. } = &post.receiver;
        let end = End::of(url)?;
        let scheme = if end.encrypted { "https" } else { "http" };
        let variable = |name: &str| std::env::var(name).ok();
        let proxy = proxy::choose(proxy, (scheme, &end.host, end.port), variable)?;
        let encrypted =
            end.encrypted || proxy.as_ref().is_some_and(|proxy| proxy.text().starts_with("https:"));
        let whole = match post.path {
            "" => url.text().to_owned(),
            path => format!("{}{path}", url.text().trim_end_matches('/')),
        };
        let target: Uri = whole.parse().map_err(|_| anyhow!("no address"))?;
        let mut secrets = vec![url.text().to_owned()];
        secrets.extend(target.path_and_query().map(|path| path.as_str().to_owned()));
        secrets.extend(parts(target.path()).chain(parts(target.query().unwrap_or_default())));
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, value(&end.authority)?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let agent = concat!("mailflow-agent/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        for (name, text) in more {
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
        // Through a proxy the request in plain text names the whole address.
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
        secrets.retain(|secret| secret.len() >= SHORTEST_SECRET);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Self { url: url.clone(), end, proxy, encrypted, target, headers, secrets })
    }

    fn request(&self, body: &str) -> anyhow::Result<Request<String>> {
        let mut request = Request::post(self.target.clone()).body(body.to_owned())?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// The beginning of an answer on one line, without what the receiver repeats of our secrets.
    fn scrubbed(&self, said: &[u8]) -> String {
        let mut said = String::from_utf8_lossy(said).into_owned();
        // The origin may be shown, and is part of the whole address only.
        for secret in &self.secrets {
            said = said.replace(secret, "...");
        }
        said.trim().chars().take(SHOWN).flat_map(char::escape_debug).collect()
    }
}

/// The parts of a path, a query or a header that may be a secret each.
fn parts(text: &str) -> impl Iterator<Item = String> {
    text.split(['/', '&', '=', ' ', ',', ';', ':', '@', '?']).map(str::to_owned)
}

fn value(text: &str) -> anyhow::Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| anyhow!("a header has characters that HTTP does not take"))
}

/// The header's value, and the secret in it.
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

/// Where a redirect leads, as it may be shown.
fn moved_to(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    let location = headers.get(header::LOCATION).filter(|_| status.is_redirection())?;
    let location = location.to_str().ok()?;
    Some(if location.contains("://") { origin(location) } else { "another path".to_owned() })
}

/// An error with its causes.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        // A receiver may refuse our certificate after the handshake.
        if let Some(words) = inner.downcast_ref::<std::io::Error>().and_then(tls::known) {
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
    fn no_part_of_an_answer_shows_a_secret() {
        let to = Url::parse("http://receiver.example/PLANTED1?key=PLANTED2", UrlForm::Webhook).unwrap();
        let headers = vec![("x-token".to_owned(), "PLANTED3".to_owned())];
        let receiver = Receiver { headers, proxy: crate::config::Proxy::Off, ..Receiver::default() };
        let shown = |answer: &'static str| {
            runtime().unwrap().block_on(async {
                let (client, mut server) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move {
                    let _ = server.read(&mut [0; 1 << 12]).await;
                    server.write_all(answer.as_bytes()).await.unwrap();
                });
                format!("{:?}", post_over(client, &to, receiver.clone(), "{}").await)
            })
        };
        for answer in [
            "HTTP/1.1 400 Bad\r\n\r\nno PLANTED1 with PLANTED2 and PLANTED3",
            "HTTP/1.1 301 Moved\r\nLocation: https://PLANTED1.example/PLANTED2\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: http://PLANTED2:PLANTED3@other.example/\r\n\r\n",
            "HTTP/1.1 307 Found\r\nLocation: x://PLANTED1\r\n\r\n",
            "PLANTED1 PLANTED2\r\n\r\n",
        ] {
            assert!(!shown(answer).contains("PLANTED"), "{}", shown(answer));
        }
        assert!(
            shown("HTTP/1.1 301 Moved\r\nLocation: https://o.example/\r\n\r\n")
                .contains("https://o.example:443")
        );
    }
}
