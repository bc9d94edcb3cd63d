//! Receivers behind a proxy.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use mailflow_agent::config::{
    AlertDestination, DeadLetters, Profile, Proxy as Setting, Receiver as Settings, WebhookAddress,
    outputs::url::{Url, UrlForm},
};

use crate::{
    http::Receiver,
    peer::{alert, event, numbers, sink, until},
};

/// A proxy that takes CONNECT and absolute addresses, and leads every name to one receiver.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Leads to `to`; answers with `status` instead where that is no 200.
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

    /// The heads of the requests, each as it came.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn url(&self, user: &str) -> Url {
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
        // The origin's form, as a proxy sends it on.
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

fn webhook(url: &str, proxy: Setting) -> AlertDestination {
    let url = WebhookAddress::Inline(Url::parse(url, UrlForm::Webhook).unwrap());
    let receiver = Settings { proxy, timeout: Duration::from_secs(20), ..Settings::default() };
    AlertDestination::Webhook { url, receiver, profile: Profile::Eve, dead_letters: DeadLetters::Off }
}

#[test]
fn plain_text_goes_to_the_proxy_with_the_whole_address() {
    let receiver = Receiver::anywhere(200);
    let proxy = Proxy::start(receiver.addr, 200);
    // A name that nothing but the proxy knows.
    let to = Setting::To(proxy.url("user:p%40ss@"));
    let sink = sink(webhook("http://receiver.invalid:8080/hook?a=b", to));
    sink.push(event(&alert(1)));
    until("delivered", || numbers(&sink) == (1, 0, 0));
    assert!(receiver.received().iter().all(|one| one.line == "POST /hook?a=b"));
    let head = proxy.heads().remove(0).to_lowercase();
    assert!(head.starts_with("post http://receiver.invalid:8080/hook?a=b http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: receiver.invalid:8080\r\n"), "{head}");
    // user:p@ss
    assert!(head.contains("\r\nproxy-authorization: basic dxnlcjpwqhnz\r\n"), "{head}");
}

#[test]
fn tls_goes_through_a_tunnel() {
    let receiver = Receiver::anywhere(200);
    let proxy = Proxy::start(receiver.addr, 200);
    let sink = sink(webhook("https://receiver.invalid/hook", Setting::To(proxy.url("user:pass@"))));
    sink.push(event(&alert(1)));
    // The receiver speaks no TLS: what is seen here is the tunnel to it.
    until("an error", || sink.counters().errors.get() > 0);
    let head = proxy.heads().remove(0).to_lowercase();
    assert!(head.starts_with("connect receiver.invalid:443 http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: receiver.invalid:443\r\n"), "{head}");
    assert!(head.contains("\r\nproxy-authorization: basic dxnlcjpwyxnz\r\n"), "{head}");
}

#[test]
fn a_proxy_that_refuses_is_no_answer_of_the_receiver() {
    let receiver = Receiver::anywhere(200);
    let proxy = Proxy::start(receiver.addr, 407);
    let sink = sink(webhook("https://receiver.invalid/hook", Setting::To(proxy.url(""))));
    sink.push(event(&alert(1)));
    until("an error", || sink.counters().errors.get() > 0);
    assert_eq!(numbers(&sink), (0, 0, 1), "it is kept");
}
