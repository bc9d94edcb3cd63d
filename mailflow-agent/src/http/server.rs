//! Server of the metrics port: accepts connections and serves the pages.

use super::{
    access::Door,
    peer::{Guest, PageInHand, Peer},
    state::State,
    timed::Timed,
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

/// Connections served at once, and those of a peer. Beyond that the oldest one is closed, so that a new one, such as
/// a probe of the health page, never waits.
const CONNECTIONS: usize = 256;
const CONNECTIONS_OF_A_PEER: usize = 64;
/// Metrics pages that are being read at once, and by a peer. Beyond that the connection of the oldest one is closed.
const PAGES: usize = 16;
const PAGES_OF_A_PEER: usize = 8;
/// An answer must be read within this time.
const READING: Duration = Duration::from_secs(30);
/// A request's head must be complete within this time.
const HEAD: Duration = Duration::from_secs(10);
/// A connection is not kept longer than this, whether idle or slow.
const AGE: Duration = Duration::from_secs(300);
/// What is under way at the end may take this long.
const GRACE: Duration = Duration::from_secs(5);
/// Most bytes of a request's head.
const BUFFER: usize = 16 * 1024;
/// Pause after the system refused a connection (no descriptors left).
const REFUSED: Duration = Duration::from_millis(200);

/// Why the port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("cannot listen on {addr}: the address is in use by another process")]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// Neither the address nor its interface is there yet.
    #[error("cannot listen on {addr} yet: {source}")]
    Absent {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refuses it.
    #[error("cannot listen on {addr}: {source}")]
    Refused {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

/// A port that is listened on and not yet served.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    addr: SocketAddr,
}

impl Listener {
    /// Where it listens; tells the port when 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl AsRef<[u8]> for PageInHand {
    fn as_ref(&self) -> &[u8] {
        &self.page
    }
}

/// Listens on `addr`. Needs a tokio runtime.
///
/// # Errors
/// The address is in use, or the system refuses it.
pub async fn bind(addr: SocketAddr) -> Result<Listener, BindError> {
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { addr },
        _ if super::listen::is_absent(&source) => BindError::Absent { addr, source },
        _ => BindError::Refused { addr, source },
    };
    let inner = super::listen::listen(addr).map_err(refused)?;
    let addr = inner.local_addr().map_err(refused)?;
    Ok(Listener { inner, addr })
}

/// Serves those whom `door` lets in until `shutdown` is done; what is under way then gets a short grace.
pub async fn serve(
    listener: Listener,
    door: Door,
    state: Arc<dyn State>,
    shutdown: impl Future<Output = ()>,
) {
    let router = super::routes::router(state);
    let connections = Arc::new(ConnectionLimiter::new(CONNECTIONS, CONNECTIONS_OF_A_PEER));
    let pages = Arc::new(ConnectionLimiter::new(PAGES, PAGES_OF_A_PEER));
    let (stop, stopped) = watch::channel(());
    let mut served = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.inner.accept() => accepted,
            Some(_) = served.join_next() => continue,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let (peer, leave) = (Peer::from(address), Arc::<EvictionSignal>::default());
                let Some(place) = connections.admit(peer, &leave) else { continue };
                let guest = Arc::new(Guest { peer, leave: Arc::clone(&leave), pages: Arc::clone(&pages) });
                let web = door.web();
                let router = door.guard(router.clone(), web.as_ref()).layer(Extension(guest));
                let tls = web.and_then(|web| web.tls.clone()).map(TlsAcceptor::from);
                let connection = welcome(stream, tls, router, stopped.clone());
                served.spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        // Whatever it is about: a newer one takes its place.
                        () = leave.evicted() => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the metrics port cannot take a connection");
                tokio::select! {
                    () = sleep(REFUSED) => {}
                    () = &mut shutdown => break,
                }
            }
        }
    }
    drop(listener);
    drop(stop);
    let _ = timeout(GRACE, async { while served.join_next().await.is_some() {} }).await;
}

/// Serves one connection, after TLS has been agreed on where it is asked for.
async fn welcome(stream: TcpStream, tls: Option<TlsAcceptor>, router: Router, stopped: watch::Receiver<()>) {
    let Some(tls) = tls else { return attend(stream, router, stopped).await };
    match timeout(HEAD, tls.accept(stream)).await {
        Ok(Ok(stream)) => attend(stream, router, stopped).await,
        // Scanners and clients without the right certificate: their business, as a broken connection is.
        Ok(Err(error)) => tracing::debug!(%error, "a client and the metrics port cannot agree on TLS"),
        Err(_) => {}
    }
}

/// Serves one connection until it ends, is too old, or `stopped` says so.
async fn attend<S>(stream: S, router: Router, mut stopped: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Timed::new(stream, READING)), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        // A client that breaks off is its own business.
        _ = connection.as_mut() => return,
        () = sleep(AGE) => {}
        // The sender is dropped at the end: then this returns.
        _ = stopped.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}
