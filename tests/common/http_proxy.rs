//! HTTP proxy that forwards every name to one receiver.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use mailflow_agent::config::outputs::url::{Url, UrlForm};

/// Proxy for CONNECT and absolute addresses, which connects every name to one receiver.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts a proxy to `to`; a `status` other than 200 is its answer instead.
    pub(crate) fn start(to: SocketAddr, status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&seen);
                thread::spawn(move || attend(client, to, status, &seen));
            }
        });
        Self { addr, heads }
    }

    /// Returns the heads of the requests.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Returns its address as a setting.
    pub(crate) fn url(&self, user: &str) -> Url {
        Url::parse(&format!("http://{user}{}", self.addr), UrlForm::Proxy).unwrap()
    }
}

fn attend(client: TcpStream, to: SocketAddr, status: u16, heads: &Mutex<Vec<String>>) -> Option<()> {
    let mut input = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if input.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    heads.lock().unwrap().push(head.clone());
    let mut out = client.try_clone().ok()?;
    if status != 200 {
        write!(out, "HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n").ok()?;
        return None;
    }
    let server = TcpStream::connect(to).ok()?;
    if head.starts_with("CONNECT ") {
        write!(out, "HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    } else {
        // The origin form, as a proxy forwards it.
        let (method, rest) = head.split_once(" http://").unwrap();
        let path = rest.split_once('/').unwrap().1;
        write!(&server, "{method} /{path}").ok()?;
    }
    let (mut from_server, mut to_server) = (server.try_clone().ok()?, server);
    let back = thread::spawn(move || std::io::copy(&mut from_server, &mut out));
    let mut buffered = input.buffer().to_vec();
    input.consume(buffered.len());
    to_server.write_all(&buffered).ok()?;
    buffered.clear();
    let mut client = input.into_inner();
    let mut bytes = [0; 4_096];
    while let Ok(read @ 1..) = client.read(&mut bytes) {
        to_server.write_all(&bytes[..read]).ok()?;
    }
    let _ = to_server.shutdown(std::net::Shutdown::Both);
    back.join().ok()?.ok().map(drop)
}
