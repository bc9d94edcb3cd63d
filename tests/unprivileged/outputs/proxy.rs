//! Receivers behind a proxy.

use std::time::Duration;

use mailflow_agent::config::{
    AlertDestination, DeadLetters, Profile, Proxy as Setting, Receiver as Settings, WebhookAddress,
    outputs::url::{Url, UrlForm},
};

use crate::{
    http::Receiver,
    http_proxy::Proxy,
    peer::{alert, event, numbers, sink, until},
};

fn webhook(url: &str, proxy: Setting) -> AlertDestination {
    let url = WebhookAddress::Inline(Url::parse(url, UrlForm::Webhook).unwrap());
    let receiver = Settings { proxy, timeout: Duration::from_secs(20), ..Settings::default() };
    AlertDestination::Webhook { url, receiver, profile: Profile::Eve, dead_letters: DeadLetters::Off }
}

#[test]
fn http_request_to_proxy_has_absolute_address() {
    let receiver = Receiver::anywhere(200);
    let proxy = Proxy::start(receiver.addr, 200);
    // A name that only the proxy can resolve.
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
fn tls_uses_connect_tunnel() {
    let receiver = Receiver::anywhere(200);
    let proxy = Proxy::start(receiver.addr, 200);
    let sink = sink(webhook("https://receiver.invalid/hook", Setting::To(proxy.url("user:pass@"))));
    sink.push(event(&alert(1)));
    // The receiver has no TLS, so the handshake waits for its timeout: only the tunnel is visible.
    until("a tunnel", || !proxy.heads().is_empty());
    let head = proxy.heads().remove(0).to_lowercase();
    assert!(head.starts_with("connect receiver.invalid:443 http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: receiver.invalid:443\r\n"), "{head}");
    assert!(head.contains("\r\nproxy-authorization: basic dxnlcjpwyxnz\r\n"), "{head}");
}

#[test]
fn proxy_refusal_is_not_the_receivers_answer() {
    let receiver = Receiver::anywhere(200);
    let proxy = Proxy::start(receiver.addr, 407);
    let sink = sink(webhook("https://receiver.invalid/hook", Setting::To(proxy.url(""))));
    sink.push(event(&alert(1)));
    until("an error", || sink.counters().errors.get() > 0);
    assert_eq!(numbers(&sink), (0, 0, 1), "it is kept");
}
