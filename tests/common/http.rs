//! Scriptable receiver of HTTP requests.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Received request.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Method and path.
    pub(crate) line: String,
    /// Headers, with names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: serde_json::Value,
}

/// Receiver, stopped on drop.
pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    /// Thread that accepts connections until the receiver is dropped.
    accepting: Option<thread::JoinHandle<()>>,
}

/// Scripted answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Further header lines, each with its line end.
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) delay: Duration,
}

type Script = Box<dyn Fn(&Received) -> Reply + Send + Sync>;

struct Shared {
    /// Status of the answer; 0 never answers.
    status: AtomicU16,
    /// Script that replaces the fixed answer.
    script: Option<Script>,
    /// Requests with their times.
    asked: Mutex<Vec<(Instant, Received)>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    gone: AtomicBool,
    received: Mutex<Vec<Received>>,
}

impl Receiver {
    /// Listens on `addr` (port 0 is any) and answers with `status`.
    pub(crate) fn start(addr: SocketAddr, status: u16) -> Self {
        Self::with(addr, status, None, None)
    }

    /// Listens on any port of the loopback and answers by `script`.
    pub(crate) fn scripted(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::with("127.0.0.1:0".parse().unwrap(), 200, Some(Box::new(script)), None)
    }

    /// Listens on any port of the loopback, with TLS.
    pub(crate) fn encrypted(tls: rustls::ServerConfig) -> Self {
        Self::with("127.0.0.1:0".parse().unwrap(), 200, None, Some(Arc::new(tls)))
    }

    fn with(
        addr: SocketAddr,
        status: u16,
        script: Option<Script>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind(addr).unwrap();
        let shared = Arc::new(Shared {
            script,
            asked: Mutex::default(),
            tls,
            status: AtomicU16::new(status),
            gone: AtomicBool::new(false),
            received: Mutex::default(),
        });
        let (addr, here) = (listener.local_addr().unwrap(), Arc::clone(&shared));
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if here.gone.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&here);
                thread::spawn(move || shared.attend(stream));
            }
        });
        Self { addr, shared, accepting: Some(accepting) }
    }

    /// Listens on any port of the loopback.
    pub(crate) fn anywhere(status: u16) -> Self {
        Self::start("127.0.0.1:0".parse().unwrap(), status)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Changes the status of answers.
    pub(crate) fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// Returns every request so far with its time.
    pub(crate) fn asked(&self) -> Vec<(Instant, Received)> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Returns the requests that were answered with success so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        // The address is free for the next receiver once the thread has ended.
        if TcpStream::connect(self.addr).is_ok() {
            let _ = self.accepting.take().map(thread::JoinHandle::join);
        }
    }
}

impl Shared {
    /// Serves requests until the client or the receiver disconnects.
    fn attend(&self, stream: TcpStream) {
        match &self.tls {
            None => self.serve(&stream, &stream),
            Some(tls) => {
                let connection = rustls::ServerConnection::new(Arc::clone(tls)).unwrap();
                let stream = Mutex::new(rustls::StreamOwned::new(connection, stream));
                self.serve(Locked(&stream), Locked(&stream));
            }
        }
    }

    fn serve(&self, input: impl Read, mut output: impl Write) {
        let mut input = BufReader::new(input);
        while let Some(received) = read(&mut input) {
            self.asked.lock().unwrap().push((Instant::now(), received.clone()));
            if let Some(script) = &self.script {
                let Reply { status, head, body, delay } = script(&received);
                thread::sleep(delay);
                if (200..300).contains(&status) {
                    self.received.lock().unwrap().push(received);
                }
                let length = body.len();
                let _ = write!(output, "HTTP/1.1 {status} X\r\n{head}content-length: {length}\r\n\r\n{body}");
                continue;
            }
            let status = self.status.load(Ordering::SeqCst);
            if status == 0 {
                // Until the client disconnects.
                let _ = input.read(&mut [0]);
                return;
            }
            if self.gone.load(Ordering::SeqCst) {
                return;
            }
            if (200..300).contains(&status) {
                self.received.lock().unwrap().push(received);
            }
            let body = if status < 300 { "" } else { "no" };
            let length = body.len();
            let _ = write!(output, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
        }
    }
}

/// Shared stream for reading and writing.
struct Locked<'a, T>(&'a Mutex<T>);

impl<T: Read> Read for Locked<'_, T> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().read(bytes)
    }
}

impl<T: Write> Write for Locked<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().unwrap().flush()
    }
}

fn read(input: &mut impl BufRead) -> Option<Received> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    let line = lines[0].strip_suffix(" HTTP/1.1")?.to_owned();
    Some(Received { line, headers, body: serde_json::from_slice(&body).ok()? })
}
