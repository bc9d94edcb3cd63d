//! Hosts, their actions and the expected alerts: `tests/unprivileged/scenarios/corpus` as real connections.

use std::net::IpAddr;

use mailflow_test_support::lab::Mode;

use super::{actions::Host, expected::Identity};

/// Presence of a host on the allow-list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Yes,
    No,
}

/// Host with its actions.
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) act: fn(&Host<'_>),
    /// Expected alerts: rule and severity.
    alerts: &'static [(&'static str, &'static str)],
    pub(super) listed: Listed,
    /// The alerts end within an hour; those of a day's window do not.
    pub(super) resolves: bool,
    /// The host behaves like a relay: many accepted mails to many servers.
    pub(super) relay: bool,
}

impl Scene {
    /// Returns the expected alerts for this address.
    pub(super) fn expected_alerts(&self, source: IpAddr) -> impl Iterator<Item = Identity> {
        let suppressed = self.listed == Listed::Yes;
        self.alerts
            .iter()
            .map(move |(rule, severity)| ((*rule).to_owned(), source, (*severity).to_owned(), suppressed))
    }
}

const BURST: (&str, &str) = ("smtp-burst", "high");
const BULK: (&str, &str) = ("smtp-bulk", "high");
const GUESS: (&str, &str) = ("smtp-auth-guess", "low");

/// Scenes of an hour.
pub(super) const HOUR: [Scene; 10] = [
    // A few mails through the provider: no alert.
    Scene {
        name: "office",
        act: |host| host.within_an_hour(6, |_| host.submit(Mode::StartTls, 2_000)),
        alerts: &[],
        listed: Listed::No,
        resolves: false,
        relay: false,
    },
    // A folder page by page, 8 MB in all: below every threshold.
    Scene {
        name: "scanner",
        act: |host| host.within_an_hour(8, |_| host.submit(Mode::Tls, 1_000_000)),
        alerts: &[],
        listed: Listed::No,
        resolves: false,
        relay: false,
    },
    // Forty mails through the provider within an hour: above the first threshold, below sixty.
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
    // Directly to the recipients' servers: some mails are accepted, most rejected by a reply or an RST.
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
    // A spam bot behind a firewall. `smtp-burst` has no flows to count.
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
    // One flow with many mails.
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
    // Few flows, and only ACKs in return: the sum decides.
    Scene {
        name: "12 x 10 MB over TLS",
        act: |host| (0..12).for_each(|_| host.submit(Mode::Tls, 10_000_000)),
        alerts: &[BULK],
        listed: Listed::No,
        resolves: true,
        relay: false,
    },
    // Repeated sessions with one server, without a mail.
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
    // The mail server: its traffic would be an attack from any other host, and it is on the allow-list.
    Scene {
        name: "mail server",
        act: |host| host.within_an_hour(80, |number| host.deliver(number)),
        alerts: &[BURST, BULK],
        listed: Listed::Yes,
        // Eighty sessions with a mail stay in the window of a day.
        resolves: false,
        relay: false,
    },
    // A probe of twelve servers in turn, only greetings. On the allow-list too.
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

/// Scenes of a day.
pub(super) const DAY: [Scene; 2] = [
    // Eight mails an hour: below the hourly threshold, above the daily one. All are accepted: like a relay,
    // which the alert mentions.
    Scene {
        name: "slow drip, < 9 an hour",
        act: |host| host.at_most_an_hour(8, 66, |number| host.deliver(number)),
        alerts: &[BULK],
        listed: Listed::No,
        resolves: false,
        relay: true,
    },
    // Four mails an hour, at most thirty a day: a busy office.
    Scene {
        name: "office",
        act: |host| host.at_most_an_hour(4, 30, |_| host.submit(Mode::StartTls, 2_000)),
        alerts: &[],
        listed: Listed::No,
        resolves: false,
        relay: false,
    },
];
