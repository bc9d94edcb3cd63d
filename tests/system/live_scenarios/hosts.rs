//! Who does what, and what is to be said of it: `tests/unprivileged/scenarios/corpus` in real connections.

use std::net::IpAddr;

use mailflow_test_support::lab::Mode;

use super::{actions::Host, expected::Said};

/// Whether a host stands on the allow-list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Yes,
    No,
}

/// A host and its part.
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) act: fn(&Host<'_>),
    /// The alerts about it: rule and severity.
    alerts: &'static [(&'static str, &'static str)],
    pub(super) listed: Listed,
    /// Whether they end within the hour after it: what a day's window holds does not.
    pub(super) resolves: bool,
    /// Whether it sends as a relay does: much, to many, and it is taken.
    pub(super) relay: bool,
}

impl Scene {
    /// The alerts about it, from this address.
    pub(super) fn said(&self, source: IpAddr) -> impl Iterator<Item = Said> {
        let suppressed = self.listed == Listed::Yes;
        self.alerts
            .iter()
            .map(move |(rule, severity)| ((*rule).to_owned(), source, (*severity).to_owned(), suppressed))
    }
}

const BURST: (&str, &str) = ("smtp-burst", "high");
const BULK: (&str, &str) = ("smtp-bulk", "high");
const GUESS: (&str, &str) = ("smtp-auth-guess", "low");

/// Of an hour.
pub(super) const HOUR: [Scene; 10] = [
    // Some letters through the provider: nothing is said.
    Scene {
        name: "office",
        act: |host| host.within_an_hour(6, |_| host.submit(Mode::StartTls, 2_000)),
        alerts: &[],
        listed: Listed::No,
        resolves: false,
        relay: false,
    },
    // A folder, page by page, 8 MB in all: neither many nor much.
    Scene {
        name: "scanner",
        act: |host| host.within_an_hour(8, |_| host.submit(Mode::Tls, 1_000_000)),
        alerts: &[],
        listed: Listed::No,
        resolves: false,
        relay: false,
    },
    // Forty letters through the provider within the hour: many, but not yet sixty.
    Scene {
        name: "stolen account",
        act: |host| {
            host.within_an_hour(40, |number| {
                host.submit(if number % 2 == 0 { Mode::StartTls } else { Mode::Tls }, 2_000);
            });
        },
        alerts: &[BURST],
        listed: Listed::No,
        resolves: true,
        relay: false,
    },
    // Straight to the recipients' servers: some of it taken, most refused by reply or by RST.
    Scene {
        name: "spam bot",
        act: |host| {
            host.within_an_hour(100, |number| match number % 4 {
                0 => host.deliver(number),
                1 | 2 => host.talk(number, |d| super::dialogue::rejected(1, d)),
                _ => host.knock(number, 994),
            });
        },
        alerts: &[BURST, BULK],
        listed: Listed::No,
        resolves: true,
        relay: false,
    },
    // The same behind a firewall. The owner's rule has nothing to measure.
    Scene {
        name: "blocked bot, SYNs only",
        act: |host| {
            host.block();
            host.within_an_hour(60, |number| host.knock(number, 25));
        },
        alerts: &[BULK],
        listed: Listed::No,
        resolves: true,
        relay: false,
    },
    // One flow, however many mails are in it.
    Scene {
        name: "1,000 mails, one connection",
        act: |host| {
            host.talk(0, |d| {
                d.say("EHLO client.example\r\n", &[250]);
                for _ in 0..1_000 {
                    d.mail(900);
                }
                d.end();
            });
        },
        alerts: &[BULK],
        listed: Listed::No,
        resolves: true,
        relay: false,
    },
    // Few flows, and what comes back is ACKs: it is the sum that speaks.
    Scene {
        name: "12 x 10 MB over TLS",
        act: |host| (0..12).for_each(|_| host.submit(Mode::Tls, 10_000_000)),
        alerts: &[BULK],
        listed: Listed::No,
        resolves: true,
        relay: false,
    },
    // At one server, again and again, and never a mail.
    Scene {
        name: "password guessing",
        act: |host| {
            host.within_an_hour(60, |_| {
                host.talk(0, |d| {
                    d.say("EHLO client.example\r\n", &[250]);
                    for _ in 0..3 {
                        d.say("AUTH PLAIN AGFsaWNlAGd1ZXNzZWQ=\r\n", &[503]);
                    }
                    d.end();
                });
            });
        },
        alerts: &[GUESS],
        listed: Listed::No,
        resolves: true,
        relay: false,
    },
    // The mail server: what it sends would be an attack from anybody else, and it is on the list.
    Scene {
        name: "mail server",
        act: |host| host.within_an_hour(80, |number| host.deliver(number)),
        alerts: &[BURST, BULK],
        listed: Listed::Yes,
        // Eighty sessions with a mail stay in the window of a day.
        resolves: false,
        relay: false,
    },
    // A probe: twelve servers in turn, greeted and left. On the list too.
    Scene {
        name: "monitor",
        act: |host| {
            host.within_an_hour(72, |number| {
                host.talk(number % 12, |d| {
                    d.say("EHLO probe.example\r\n", &[250]).end();
                });
            });
        },
        alerts: &[BULK],
        listed: Listed::Yes,
        resolves: true,
        relay: false,
    },
];

/// Of a day.
pub(super) const DAY: [Scene; 2] = [
    // Eight mails an hour: no hour is loud, but the day is. Each is taken: a relay looks the same, and it is said.
    Scene {
        name: "slow drip, < 9 an hour",
        act: |host| host.at_most_an_hour(8, 66, |number| host.deliver(number)),
        alerts: &[BULK],
        listed: Listed::No,
        resolves: false,
        relay: true,
    },
    // Four letters an hour, and no more than thirty a day: an office that writes much.
    Scene {
        name: "office",
        act: |host| host.at_most_an_hour(4, 30, |_| host.submit(Mode::StartTls, 2_000)),
        alerts: &[],
        listed: Listed::No,
        resolves: false,
        relay: false,
    },
];
