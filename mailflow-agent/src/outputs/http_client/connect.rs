//! Connections to receivers, with TLS for `https` and through a proxy if one is configured. If an address
//! does not respond, the next one is tried.

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

/// Shortest timeout for one of several addresses.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(50);

/// Connection that carries a request.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Peer of a connection: a receiver or a proxy.
pub(crate) struct HttpEndpoint {
    /// True for `https`.
    pub(crate) encrypted: bool,
    /// Host without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `host:port` as in the URL.
    pub(crate) authority: String,
}

impl HttpEndpoint {
    /// Returns the endpoint of a URL.
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

/// TLS settings of a receiver.
pub(crate) struct ReceiverTls {
    pub(crate) config: Arc<ClientConfig>,
    /// Name that the receiver's certificate must have, instead of its host.
    pub(crate) server_name: Option<String>,
}

/// Connects to a receiver, through `proxy` if there is one. Each step takes at most `limit`.
pub(crate) async fn connect(
    to: &HttpEndpoint,
    proxy: Option<&Url>,
    tls: Option<&ReceiverTls>,
    limit: Duration,
) -> anyhow::Result<Box<dyn ByteStream>> {
    let stream: Box<dyn ByteStream> = match proxy {
        None => Box::new(connect_tcp(to, limit).await?),
        Some(proxy) => {
            connect_to_proxy(proxy, to, tls, limit).await.with_context(|| format!("proxy {proxy}"))?
        }
    };
    match tls {
        Some(tls) if to.encrypted => {
            let name = tls.server_name.as_deref().unwrap_or(&to.host);
            encrypt(stream, &tls.config, name).await
        }
        _ => Ok(stream),
    }
}

/// Connects to a proxy: directly for a plain-text request, with a tunnel to `to` for TLS.
async fn connect_to_proxy(
    proxy: &Url,
    to: &HttpEndpoint,
    tls: Option<&ReceiverTls>,
    limit: Duration,
) -> anyhow::Result<Box<dyn ByteStream>> {
    let end = HttpEndpoint::of(proxy)?;
    let mut stream: Box<dyn ByteStream> = Box::new(connect_tcp(&end, limit).await?);
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
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    if !response.status().is_success() {
        bail!("the proxy does not connect to {}: {}", to.authority, response.status());
    }
    Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await?)))
}

/// Returns the credentials in the proxy's URL as a header value.
pub(crate) fn authorization(proxy: &Url) -> Option<HeaderValue> {
    let uri: Uri = proxy.text().parse().ok()?;
    let (user, _) = uri.authority()?.as_str().rsplit_once('@')?;
    let user = if user.contains(':') { user.to_owned() } else { format!("{user}:") };
    let mut value =
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(percent_decode(&user)))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Decodes the percent-encoded bytes of `text`.
fn percent_decode(text: &str) -> Vec<u8> {
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

/// Connects to one of the addresses of a host.
async fn connect_tcp(end: &HttpEndpoint, limit: Duration) -> anyhow::Result<TcpStream> {
    let start = clock::now();
    let resolved = lookup_host((end.host.as_str(), end.port)).await.context("failed to resolve the name")?;
    let addresses: Vec<SocketAddr> = resolved.collect();
    connect_to_any(&addresses, limit.saturating_sub(clock::now().since(start))).await
}

/// Connects to the first address that responds. Each address gets an equal share of the remaining `limit`.
async fn connect_to_any(addresses: &[SocketAddr], limit: Duration) -> anyhow::Result<TcpStream> {
    let start = clock::now();
    let mut last_error = anyhow!("the name has no address");
    for (number, address) in addresses.iter().enumerate() {
        let remaining = limit.saturating_sub(clock::now().since(start));
        let share = remaining / u32::try_from(addresses.len() - number).unwrap_or(1);
        match timeout(share.max(MIN_CONNECT_TIMEOUT), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last_error = anyhow!("{address}: {error}"),
            Err(_) => last_error = anyhow!("{address}: no connection within {share:?}"),
        }
    }
    Err(last_error)
}

/// Performs the TLS handshake.
async fn encrypt(
    stream: Box<dyn ByteStream>,
    config: &Arc<ClientConfig>,
    name: &str,
) -> anyhow::Result<Box<dyn ByteStream>> {
    let name =
        ServerName::try_from(name.to_owned()).map_err(|_| anyhow!("{name} is not a valid server name"))?;
    let connected: io::Result<_> = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    match connected {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(anyhow!(tls::describe_handshake_error(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::outputs::url::UrlForm;

    #[test]
    fn tries_the_next_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        // The first address refuses the connection. The second does not respond, because its queue is full.
        let refusing: SocketAddr = format!("[::1]:{}", here.port()).parse().unwrap();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent_at = silent.local_addr().unwrap();
        // A second listen(2) shortens the queue of this one.
        socket2::SockRef::from(&silent).listen(0).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let peer = |addresses: &[SocketAddr]| {
            let stream = runtime.block_on(connect_to_any(addresses, Duration::from_secs(8)));
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
    fn sends_proxy_credentials_as_basic_auth() {
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
