//! Connections to receivers: the next address where one does not answer, through a proxy where there is one, with
//! TLS where the address says so.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::Empty;
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1,
    header,
    http::{HeaderValue, Uri},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::tls;
use crate::config::outputs::url::{Url, host_port};
use mailflow_kernel::clock;

/// Least time for one of several addresses.
const LEAST: Duration = Duration::from_millis(50);

/// A connection that carries a request.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The end of a connection: a receiver, or a proxy.
pub(crate) struct End {
    /// `https`.
    pub(crate) encrypted: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `host:port` as in the address.
    pub(crate) authority: String,
}

impl End {
    /// The one that an address names.
    pub(crate) fn of(url: &Url) -> anyhow::Result<Self> {
        let uri: Uri = url.text().parse().map_err(|_| anyhow!("no address"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("no address");
        };
        let encrypted = scheme == "https";
        Ok(Self {
            encrypted,
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(if encrypted { 443 } else { 80 }),
            authority: host_port(authority, scheme),
        })
    }
}

/// TLS of a receiver.
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    /// The name that the receiver's certificate must have, instead of its host.
    pub(crate) server_name: Option<String>,
}

/// Connects to a receiver, through `proxy` where there is one. Nothing takes longer than `limit`.
pub(crate) async fn connect(
    to: &End,
    proxy: Option<&Url>,
    tls: Option<&Tls>,
    limit: Duration,
) -> anyhow::Result<Box<dyn Stream>> {
    let stream: Box<dyn Stream> = match proxy {
        None => Box::new(tcp(to, limit).await?),
        Some(proxy) => through(proxy, to, tls, limit).await.with_context(|| format!("proxy {proxy}"))?,
    };
    match tls {
        Some(tls) if to.encrypted => {
            let name = tls.server_name.as_deref().unwrap_or(&to.host);
            encrypt(stream, &tls.config, name).await
        }
        _ => Ok(stream),
    }
}

/// A connection to a proxy: as it is for a request in plain text, and as a tunnel to `to` for TLS.
async fn through(
    proxy: &Url,
    to: &End,
    tls: Option<&Tls>,
    limit: Duration,
) -> anyhow::Result<Box<dyn Stream>> {
    let end = End::of(proxy)?;
    let mut stream: Box<dyn Stream> = Box::new(tcp(&end, limit).await?);
    if end.encrypted {
        let tls = tls.context("no TLS")?;
        stream = encrypt(stream, &tls.config, &end.host).await?;
    }
    if !to.encrypted {
        return Ok(stream);
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(to.authority.as_str())
        .header(header::HOST, to.authority.as_str());
    if let Some(authorization) = authorization(proxy) {
        request = request.header(header::PROXY_AUTHORIZATION, authorization);
    }
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    if !answer.status().is_success() {
        bail!("it makes no connection to {}: {}", to.authority, answer.status());
    }
    Ok(Box::new(TokioIo::new(hyper::upgrade::on(answer).await?)))
}

/// What a proxy's address says of the user, as a header.
pub(crate) fn authorization(proxy: &Url) -> Option<HeaderValue> {
    let uri: Uri = proxy.text().parse().ok()?;
    let (user, _) = uri.authority()?.as_str().rsplit_once('@')?;
    let user = if user.contains(':') { user.to_owned() } else { format!("{user}:") };
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(decoded(&user)))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `text` with its percent-encoded bytes as they are.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match (first, after.get(..2).and_then(digits)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// A connection to a host, at one of its addresses.
async fn tcp(end: &End, limit: Duration) -> anyhow::Result<TcpStream> {
    let begin = clock::now();
    let found = lookup_host((end.host.as_str(), end.port)).await.context("the name cannot be resolved")?;
    let addresses: Vec<SocketAddr> = found.collect();
    first(&addresses, limit.saturating_sub(clock::now().since(begin))).await
}

/// A connection to the first address that answers. Each has an equal share of what is left of `limit`.
async fn first(addresses: &[SocketAddr], limit: Duration) -> anyhow::Result<TcpStream> {
    let begin = clock::now();
    let mut last = anyhow!("the name has no address");
    for (number, address) in addresses.iter().enumerate() {
        let left = limit.saturating_sub(clock::now().since(begin));
        let share = left / u32::try_from(addresses.len() - number).unwrap_or(1);
        match timeout(share.max(LEAST), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = anyhow!("{address}: {error}"),
            Err(_) => last = anyhow!("{address}: no connection within {share:?}"),
        }
    }
    Err(last)
}

async fn encrypt(
    stream: Box<dyn Stream>,
    config: &Arc<ClientConfig>,
    name: &str,
) -> anyhow::Result<Box<dyn Stream>> {
    let name = ServerName::try_from(name.to_owned()).map_err(|_| anyhow!("{name} is no name of a server"))?;
    let connected: io::Result<_> = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    match connected {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(anyhow!(tls::in_words(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::outputs::url::UrlForm;

    #[test]
    fn the_next_address_is_tried() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        // Nothing listens at this one; and one that answers nothing, as its queue is full.
        let refusing: SocketAddr = format!("[::1]:{}", here.port()).parse().unwrap();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent_at = silent.local_addr().unwrap();
        // A second listen(2) shortens the queue of this one.
        socket2::SockRef::from(&silent).listen(0).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let peer = |addresses: &[SocketAddr]| {
            let stream = runtime.block_on(first(addresses, Duration::from_secs(8)));
            stream.map(|stream| stream.peer_addr().unwrap())
        };
        let mut queue = Vec::new();
        let full = |queue: &mut Vec<std::net::TcpStream>| {
            let stream = std::net::TcpStream::connect_timeout(&silent_at, Duration::from_millis(300));
            stream.map(|stream| queue.push(stream)).is_err()
        };
        while !full(&mut queue) {}
        assert_eq!(peer(&[refusing, here]).unwrap(), here);
        assert_eq!(peer(&[silent_at, here]).unwrap(), here);
        assert!(peer(&[refusing]).unwrap_err().to_string().contains("refused"));
        assert_eq!(peer(&[]).unwrap_err().to_string(), "the name has no address");
    }

    #[test]
    fn a_proxys_user_is_sent_as_basic_auth() {
        for (url, expected) in [
            ("http://p:1", None),
            ("http://user:pass@p:1", Some("user:pass")),
            ("http://us%40er:p%3Ass%2@p:1", Some("us@er:p:ss%2")),
            ("http://user@p:1", Some("user:")),
        ] {
            let value = authorization(&Url::parse(url, UrlForm::Proxy).unwrap());
            let expected = expected.map(|text| format!("Basic {}", STANDARD.encode(text)));
            assert_eq!(value.as_ref().map(|value| value.to_str().unwrap()), expected.as_deref(), "{url}");
        }
    }
}
