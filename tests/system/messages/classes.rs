//! Classes of sessions, each sent from its own address.

use mailflow_test_support::lab::Mode;

use super::{
    dialogue::{chunked, pipelined, refused_logins, rejected},
    senders::Setting,
};

/// Domains that the server accepts; the relay sends each with another transport.
pub(super) const DOMAINS: &str = "example.org plain.example tls.example resumed.example";

/// Settings of the relay: accepts mail from its own host, and caches TLS sessions.
pub(super) const RELAY: &str = "smtpd_relay_restrictions = permit_mynetworks, reject\n\
    smtp_tls_session_cache_database = btree:/mnt/home/data/sessions\n";

/// Transports of the relay: plain, TLS, and TLS 1.2 with one connection per mail, which resumes sessions.
pub(super) const TRANSPORTS: &str = "\
plain unix - - n - 5 smtp\n  -o smtp_tls_security_level=none\n\
tls unix - - n - 5 smtp\n  -o smtp_tls_security_level=encrypt\n\
resumed unix - - n - 5 smtp\n  -o smtp_tls_security_level=encrypt\n  -o smtp_tls_mandatory_protocols=TLSv1.2\n  \
-o smtp_connection_cache_on_demand=no\n";

/// Returns the relay's routes to the server.
pub(super) fn routes(server: std::net::IpAddr) -> String {
    let route = |name| format!("{{{name}.example = {name}:[{server}]:25}}");
    ["plain", "tls", "resumed"].map(route).join(", ")
}

/// Inclusion of a class in the minimum share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Yes,
    /// Known weakness of the estimate: printed separately.
    No,
}

pub(super) struct Class {
    pub(super) name: &'static str,
    pub(super) judged: Judged,
    pub(super) sessions: fn(&Setting<'_>),
}

const fn class(name: &'static str, sessions: fn(&Setting<'_>)) -> Class {
    Class { name, judged: Judged::Yes, sessions }
}

const fn shown(name: &'static str, sessions: fn(&Setting<'_>)) -> Class {
    Class { name, judged: Judged::No, sessions }
}

pub(super) const CLASSES: [Class; 20] = [
    class("plain, 0.5 kB", |s| s.single(50, 500)),
    class("plain, 2 kB", |s| s.single(50, 2_000)),
    class("plain, 30 kB", |s| s.single(30, 30_000)),
    class("plain, 1 MB", |s| s.single(6, 1_000_000)),
    class("plain, 100 mails a connection", |s| s.kept(6, 600, 2_000)),
    class("STARTTLS", |s| s.curl(587, Mode::StartTls, 30, 1)),
    class("STARTTLS, 5 mails a connection", |s| s.curl(587, Mode::StartTls, 12, 5)),
    class("SMTPS", |s| s.curl(465, Mode::Tls, 30, 1)),
    class("SMTPS, 5 mails a connection", |s| s.curl(465, Mode::Tls, 12, 5)),
    class("Postfix to Postfix, pipelined", |s| s.relay("plain", 100)),
    class("Postfix to Postfix, TLS 1.3", |s| s.relay("tls", 100)),
    class("Postfix to Postfix, TLS 1.2 resumed", |s| s.relay("resumed", 50)),
    class("pipelined transactions", |s| s.by_hand(40, |number, d| pipelined(d, 1 + number % 4))),
    class("rejected recipients", |s| s.by_hand(60, rejected)),
    class("greeting and STARTTLS probes", |s| s.probes()),
    class("AUTH refused", |s| s.by_hand(40, |_, d| refused_logins(d))),
    class("1 % loss", |s| {
        s.losing(|s| {
            s.single(80, 8_000);
            s.kept(4, 200, 4_000);
            s.curl(587, Mode::StartTls, 20, 2);
        });
    }),
    shown("plain, mails of 100 B", |s| {
        s.by_hand(30, |_, d| {
            d.say("EHLO a\r\n", &[250]).mail(100).end();
        })
    }),
    shown("BDAT, one chunk a mail", |s| s.by_hand(30, |_, d| chunked(d, 1))),
    shown("BDAT, four chunks a mail", |s| s.by_hand(30, |_, d| chunked(d, 4))),
];
