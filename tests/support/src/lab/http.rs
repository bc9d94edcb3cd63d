//! Minimal HTTP: a server that is not a mail server, and a client for the agent's pages.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::ns::Ns;
use super::tcp::listen;

/// Timeout of either side.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Web server on a port of a namespace, one answer per connection. Dropping the value stops it.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    ns: Ns,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens on `address` and answers every GET with `size` bytes of text.
    ///
    /// # Errors
    /// The port is in use, or the namespace cannot be entered.
    pub fn start(ns: &Ns, address: SocketAddr, size: usize) -> Result<Self> {
        let listener = listen(ns, address)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A client that disconnects early is not an error.
                drop(stream.and_then(|stream| answer(stream, size)));
            }
        };
        let thread = Some(std::thread::spawn(serve));
        Ok(Self { address, ns: ns.clone(), stop, thread })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The listener blocks in accept(2): one more connection wakes it.
        let woken = self.ns.enter(|| TcpStream::connect_timeout(&self.address, TIMEOUT).is_ok());
        if let (Ok(true), Some(thread)) = (woken, self.thread.take()) {
            drop(thread.join());
        }
    }
}

fn answer(stream: TcpStream, size: usize) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut request = BufReader::new(&stream);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = "x".repeat(size);
    write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n{body}")?;
    stream.shutdown(Shutdown::Write)
}

/// Fetches a page from inside a namespace: status and body.
///
/// # Errors
/// No connection, no answer within a minute, or the answer is not HTTP.
pub fn get(ns: &Ns, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let connected = ns.enter(|| TcpStream::connect_timeout(&address, TIMEOUT))?;
    let mut stream = connected.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the answer is not chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("{address}{path}"))?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_head, body))) => Ok((status, body.to_owned())),
        _ => bail!("{address}{path} does not answer in HTTP: {answer:?}"),
    }
}
