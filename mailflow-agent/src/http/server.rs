//! Server of the metrics port: accepts connections and serves the pages.

use super::{
    access::AccessControl,
    peer::{ClientConnection, PageBody, Peer},
    provider::MetricsProvider,
    timed_stream::TimedStream,
};

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::util::connection_limit::{ConnectionLimiter, EvictionSignal};

/// Largest number of connections. Beyond it the oldest one is closed, so that a new connection, such as a
/// health probe, never waits.
const MAX_CONNECTIONS: usize = 256;
/// Largest number of connections of a peer. Beyond it the oldest one is closed.
const MAX_CONNECTIONS_PER_PEER: usize = 64;
/// Largest number of metrics pages read at a time. Beyond it the connection of the oldest one is closed.
const MAX_PAGES: usize = 16;
/// Largest number of metrics pages read by a peer at a time. Beyond it the connection of the oldest one is
/// closed.
const MAX_PAGES_PER_PEER: usize = 8;
/// Time within which a response must be read.
const ANSWER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Time within which the head of a request, or a TLS handshake, must be complete.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest age of a connection.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);
/// Time for requests in progress at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Largest size of a request's head.
const MAX_REQUEST_HEAD_BYTES: usize = 16 * 1024;
/// Pause after the system refused a connection, for example if no descriptors are left.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Reason why the port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum HttpBindError {
    /// Address in use by another process.
    #[error("cannot listen on {addr}: the address is in use by another process")]
    InUse {
        /// Local address.
        addr: SocketAddr,
    },
    /// Missing address or interface.
    #[error("cannot listen on {addr} yet: {source}")]
    Absent {
        /// Local address.
        addr: SocketAddr,
        /// Reason of the system.
        source: io::Error,
    },
    /// Address refused by the system.
    #[error("cannot listen on {addr}: {source}")]
    Refused {
        /// Local address.
        addr: SocketAddr,
        /// Reason of the system.
        source: io::Error,
    },
}

/// Open port that is not served yet.
#[derive(Debug)]
pub struct HttpListener {
    inner: TcpListener,
    addr: SocketAddr,
}

impl HttpListener {
    /// Returns the local address, with the assigned port if port 0 was requested.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl AsRef<[u8]> for PageBody {
    fn as_ref(&self) -> &[u8] {
        &self.page
    }
}

/// Listens on `addr`. Needs a tokio runtime.
///
/// # Errors
/// The address is in use, or the system refuses it.
pub async fn bind(addr: SocketAddr) -> Result<HttpListener, HttpBindError> {
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => HttpBindError::InUse { addr },
        _ if super::listen::is_absent(&source) => HttpBindError::Absent { addr, source },
        _ => HttpBindError::Refused { addr, source },
    };
    let inner = super::listen::listen(addr).map_err(refused)?;
    let addr = inner.local_addr().map_err(refused)?;
    Ok(HttpListener { inner, addr })
}

/// Serves the clients that `access` admits until `shutdown` completes. Requests in progress then get a short
/// time to finish.
pub async fn serve(
    listener: HttpListener,
    access: AccessControl,
    provider: Arc<dyn MetricsProvider>,
    shutdown: impl Future<Output = ()>,
) {
    let router = super::routes::router(provider);
    let connections = Arc::new(ConnectionLimiter::new(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER));
    let pages = Arc::new(ConnectionLimiter::new(MAX_PAGES, MAX_PAGES_PER_PEER));
    let (shutdown_tx, shutdown_rx) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.inner.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let (peer, leave) = (Peer::from(address), Arc::<EvictionSignal>::default());
                let Some(permit) = connections.admit(peer, &leave) else { continue };
                let client =
                    Arc::new(ClientConnection { peer, leave: Arc::clone(&leave), pages: Arc::clone(&pages) });
                let web = access.current_web();
                let router = access.auth_layer(router.clone(), web.as_ref()).layer(Extension(client));
                let tls = web.and_then(|web| web.tls.clone()).map(TlsAcceptor::from);
                let connection = accept_tls(stream, tls, router, shutdown_rx.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        // A newer connection replaces this one.
                        () = leave.evicted() => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection at the metrics port");
                tokio::select! {
                    () = sleep(ACCEPT_RETRY_PAUSE) => {}
                    () = &mut shutdown => break,
                }
            }
        }
    }
    drop(listener);
    drop(shutdown_tx);
    let _ = timeout(SHUTDOWN_GRACE, async { while tasks.join_next().await.is_some() {} }).await;
}

/// Serves one connection, after the TLS handshake if TLS is configured.
async fn accept_tls(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    shutdown_rx: watch::Receiver<()>,
) {
    let Some(tls) = tls else { return serve_connection(stream, router, shutdown_rx).await };
    match timeout(REQUEST_HEAD_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve_connection(stream, router, shutdown_rx).await,
        // A failed handshake, for example of a scanner, concerns the client only.
        Ok(Err(error)) => tracing::debug!(%error, "the TLS handshake of a client failed"),
        Err(_) => {}
    }
}

/// Serves one connection until it ends, is too old, or `stopped` changes.
async fn serve_connection<S>(stream: S, router: Router, mut shutdown_rx: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_HEAD_TIMEOUT)
        .max_buf_size(MAX_REQUEST_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(TimedStream::new(stream, ANSWER_READ_TIMEOUT)),
            TowerToHyperService::new(router),
        );
    let mut connection = pin!(connection);
    tokio::select! {
        // A client may disconnect at any time.
        _ = connection.as_mut() => return,
        () = sleep(MAX_CONNECTION_AGE) => {}
        // Shutdown drops the sender, which completes this branch.
        _ = shutdown_rx.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(SHUTDOWN_GRACE, connection).await;
}
