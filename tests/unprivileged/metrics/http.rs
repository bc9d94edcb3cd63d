//! HTTP server of the metrics, over loopback.

use std::{
    io::Read,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mailflow_agent::http::{AccessControl, HttpBindError, MetricsProvider, bind, is_assigned, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

#[derive(Default)]
pub(crate) struct Fake {
    ready: AtomicBool,
    broken: AtomicBool,
    /// Further bytes of the page.
    more: AtomicUsize,
}

impl MetricsProvider for Fake {
    fn metrics(&self) -> anyhow::Result<String> {
        anyhow::ensure!(!self.broken.load(Ordering::Relaxed), "out of ink");
        let mut page = "mailflow_build_info{version=\"1\"} 1\n".to_owned();
        page.push_str(&"#\n".repeat(self.more.load(Ordering::Relaxed) / 2));
        Ok(page)
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    state: Arc<Fake>,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

async fn start() -> Server {
    behind(AccessControl::unrestricted()).await
}

pub(crate) async fn behind(door: AccessControl) -> Server {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (addr, state) = (listener.addr(), Arc::new(Fake::default()));
    let (stop, stopped) = oneshot::channel();
    let shared: Arc<dyn MetricsProvider> = Arc::<Fake>::clone(&state);
    let done = tokio::spawn(serve(listener, door, shared, async {
        let _ = stopped.await;
    }));
    Server { addr, state, stop, done }
}

/// Sends a request; returns status line, headers in lower case, and body.
async fn request(addr: SocketAddr, method: &str, path: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status["HTTP/1.1 ".len()..].to_owned(), headers.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn only_known_pages_are_served() {
    let server = start().await;
    let (status, headers, body) = request(server.addr, "GET", "/metrics").await;
    assert_eq!(status, "200 OK");
    assert!(headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{headers}");
    assert_eq!(body, "mailflow_build_info{version=\"1\"} 1\n");

    let (status, headers, body) = request(server.addr, "GET", "/").await;
    assert_eq!(status, "200 OK");
    assert!(headers.contains("content-type: text/html"), "{headers}");
    for link in ["/metrics", "/-/ready", "/-/healthy"] {
        assert!(body.contains(&format!("href=\"{link}\"")), "{body}");
        assert_ne!(request(server.addr, "GET", link).await.0, "404 Not Found", "{link}");
    }

    assert_eq!(request(server.addr, "GET", "/-/healthy").await.0, "200 OK");
    assert_eq!(request(server.addr, "GET", "/healthz").await.0, "200 OK");
    assert_eq!(request(server.addr, "HEAD", "/metrics").await.2, "");
    assert_eq!(request(server.addr, "GET", "/metrics/x").await.0, "404 Not Found");
    for path in ["/metrics", "/-/ready", "/"] {
        let (status, headers, _) = request(server.addr, "POST", path).await;
        assert_eq!(status, "405 Method Not Allowed", "{path}");
        assert!(headers.contains("allow: get,head"), "{headers}");
    }
}

#[tokio::test]
async fn gzip_is_sent_if_accepted() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = "GET /metrics HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let headers = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    for header in [
        "content-encoding: gzip",
        "content-type: text/plain; version=0.0.4; charset=utf-8",
        "vary: accept-encoding",
    ] {
        assert!(headers.contains(header), "{headers}");
    }
    let mut page = String::new();
    flate2::read::GzDecoder::new(&answer[end + 4..]).read_to_string(&mut page).unwrap();
    assert_eq!(page, "mailflow_build_info{version=\"1\"} 1\n");
    let (_, headers, body) = request(server.addr, "GET", "/metrics").await;
    assert!(!headers.contains("content-encoding") && headers.contains("vary: accept-encoding"), "{headers}");
    assert!(body.starts_with("mailflow_"), "{body}");
}

#[tokio::test]
async fn readiness_follows_the_agent() {
    let server = start().await;
    for path in ["/-/ready", "/readyz"] {
        server.state.ready.store(false, Ordering::Relaxed);
        assert_eq!(request(server.addr, "GET", path).await.0, "503 Service Unavailable");
        server.state.ready.store(true, Ordering::Relaxed);
        assert_eq!(request(server.addr, "GET", path).await.0, "200 OK");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_do_not_block_others() {
    let server = start().await;
    server.state.ready.store(true, Ordering::Relaxed);
    // More than the socket buffers hold.
    server.state.more.store(16 << 20, Ordering::Relaxed);
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        slow.push(stream);
    }
    let limit = Duration::from_secs(60);
    for path in ["/-/healthy", "/-/ready", "/"] {
        let answer = timeout(limit, request(server.addr, "GET", path)).await.expect(path);
        assert_eq!(answer.0, "200 OK", "{path}");
    }
    let page = timeout(limit, request(server.addr, "GET", "/metrics")).await.expect("a scrape");
    assert!(page.0 == "200 OK" && page.2.len() > 16 << 20, "{}", page.0);
    // A limited number of pages is in memory: the other connections were closed, before their pages were complete.
    let mut open: Vec<_> = slow.into_iter().map(|stream| (stream, 0)).collect();
    let (begun, mut closed, mut buffer) = (Instant::now(), 0, vec![0; 1 << 20]);
    while closed < 64 - 8 - 1 {
        assert!(begun.elapsed() < limit, "{closed} closed");
        for (mut stream, mut read) in std::mem::take(&mut open) {
            match timeout(Duration::from_millis(20), stream.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => closed += usize::from(read < 16 << 20),
                Ok(Ok(more)) => {
                    read += more;
                    open.push((stream, read));
                }
                Err(_) => open.push((stream, read)),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_per_address_are_limited_and_newest_is_served() {
    let server = start().await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(server.addr).await.unwrap());
    }
    assert_eq!(request(server.addr, "GET", "/-/healthy").await.0, "200 OK");
    let mut open = 0;
    for stream in &mut idle {
        let mut byte = [0];
        open += usize::from(timeout(Duration::from_millis(10), stream.read(&mut byte)).await.is_err());
    }
    assert!((1..=64).contains(&open), "{open}");
}

#[tokio::test]
async fn unread_answer_closes_connection() {
    let limit = Duration::from_millis(100);
    let (near, mut far) = tokio::io::duplex(1_000);
    let mut near = mailflow_agent::http::TimedStream::new(near, limit);
    near.write_all(&[7; 1_000]).await.unwrap();
    // Single bytes at long intervals are too slow as well.
    let reader = tokio::spawn(async move {
        let mut byte = [0];
        while far.read_exact(&mut byte).await.is_ok() {
            tokio::time::sleep(limit / 10).await;
        }
    });
    let written = timeout(Duration::from_secs(60), near.write_all(&[7; 100_000])).await.expect("no end");
    assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    drop(near);
    reader.await.unwrap();
}

#[tokio::test]
async fn failed_page_is_a_server_error() {
    let server = start().await;
    server.state.broken.store(true, Ordering::Relaxed);
    assert_eq!(request(server.addr, "GET", "/metrics").await.0, "500 Internal Server Error");
    assert_eq!(request(server.addr, "GET", "/-/healthy").await.0, "200 OK");
}

#[tokio::test]
async fn port_in_use_is_reported() {
    let server = start().await;
    let error = bind(server.addr).await.unwrap_err();
    assert!(matches!(error, HttpBindError::InUse { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {}: the address is in use by another process", server.addr)
    );
    // Binding to an unassigned address is possible; binding to one with a missing scope interface is not.
    let foreign = "192.0.2.1:0".parse().unwrap();
    assert!(!is_assigned(foreign) && is_assigned(server.addr));
    bind(foreign).await.unwrap();
    let error = bind("[fe80::1%4000000000]:10825".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, HttpBindError::Absent { .. }), "{error}");
    assert!(error.to_string().starts_with("cannot listen on [fe80::1%4000000000]:10825 yet: "), "{error}");
}

#[tokio::test]
async fn oversized_request_head_is_refused() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(64 * 1024));
    // The server may close before the request is complete or its answer is read.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(3), stream.read_to_end(&mut answer)).await.expect("still connected");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{answer:?}");
}

#[tokio::test]
async fn request_head_has_a_timeout() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await.expect("still connected");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test]
async fn stop_closes_idle_connections_and_frees_port() {
    let server = start().await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET /-/healthy HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    server.stop.send(()).unwrap();
    timeout(Duration::from_secs(3), server.done).await.expect("an idle connection keeps it up").unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    bind(server.addr).await.unwrap();
}
