//! Legitimate mail senders.

use std::net::Ipv4Addr;

use super::{DAYS, HOSTS, Maker};

/// Role of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Office computer: mail through the provider, in working hours.
    Office,
    /// Scanner: sends scans through the provider.
    Scanner,
    /// Monitoring: probes mail servers about once a minute, and sends nothing.
    Monitor,
    /// Mail server: sends everywhere, around the clock.
    Mta,
    /// Newsletter: a mail to thousands of recipients, once a week.
    Newsletter,
}

/// Servers of the mail provider.
pub(super) const PROVIDER: [Ipv4Addr; 3] =
    [Ipv4Addr::new(52, 10, 0, 1), Ipv4Addr::new(52, 10, 0, 2), Ipv4Addr::new(52, 10, 0, 3)];

/// Sessions of personal mail; one in fifty is large.
const LETTERS: [&str; 5] = [
    "mail starttls587 small",
    "mail starttls587 small",
    "mail smtps465 small",
    "mail starttls587 medium",
    "mail smtps465 medium",
];
const DELIVERIES: [&str; 8] = [
    "mail plain25 small",
    "mail pipe25 small",
    "mail starttls25 small",
    "mail starttls25 medium",
    "mail plain25 medium",
    "mail starttls25 large",
    "rej grey",
    "rej nouser_tls",
];
const PROBES: [&str; 5] =
    ["probe banner", "probe connect", "probe ehloquit", "probe greetquit", "probe smtpsquit"];

/// Returns the role of a host, by its number.
pub(super) fn role(host: u32) -> Role {
    match host {
        0 | 1 => Role::Mta,
        2 => Role::Newsletter,
        3..6 => Role::Monitor,
        6..26 => Role::Scanner,
        _ => Role::Office,
    }
}

/// Returns the address of a host.
pub(super) fn address(host: u32) -> Ipv4Addr {
    Ipv4Addr::from((10 << 24) + (host / 250) * 256 + host % 250 + 1)
}

pub(super) fn live(maker: &mut Maker) {
    for host in 0..HOSTS {
        let (role, client) = (role(host), address(host));
        if role != Role::Office {
            maker.world.senders.push((client, role));
        }
        for day in 0..DAYS {
            match role {
                Role::Office => office(maker, client, day),
                Role::Scanner => scanner(maker, client, day),
                Role::Monitor => monitor(maker, client, day),
                Role::Mta => mta(maker, client, day),
                Role::Newsletter if day == 2 => newsletter(maker, client, day),
                Role::Newsletter => {}
            }
        }
    }
}

fn provider(maker: &mut Maker) -> Ipv4Addr {
    PROVIDER[maker.rng.usize(..PROVIDER.len())]
}

/// Adds a working day of an office computer: usually a few mails, for one in twenty many.
fn office(maker: &mut Maker, client: Ipv4Addr, day: u64) {
    let letters = if maker.rng.u32(..20) == 0 { maker.rng.u32(20..50) } else { maker.rng.u32(0..12) };
    for _ in 0..letters {
        let (server, start) = (provider(maker), maker.working_hour(day));
        let kind = if maker.rng.u32(..50) == 0 { &["mail smtps465 large"][..] } else { &LETTERS[..] };
        maker.session(client, server, start, kind);
    }
}

/// Adds a day of a scanner: folders of pages.
fn scanner(maker: &mut Maker, client: Ipv4Addr, day: u64) {
    for _ in 0..maker.rng.u32(1..6) {
        let begin = maker.working_hour(day);
        for page in 0..maker.rng.u32(1..16) {
            let server = provider(maker);
            maker.session(
                client,
                server,
                begin + f64::from(page) * 40.0,
                &["mail smtps465 large", "mail smtps465 medium"],
            );
        }
    }
}

/// Adds a day of probes: twelve servers, each once in ten minutes.
fn monitor(maker: &mut Maker, client: Ipv4Addr, day: u64) {
    for probe in 0..24 * 6 * 12 {
        let server = Ipv4Addr::new(53, 0, 0, (probe % 12) as u8 + 1);
        let start = (day * super::DAY) as f64 + f64::from(probe) * 50.0 + maker.rng.f64();
        maker.session(client, server, start, &PROBES);
    }
}

fn mta(maker: &mut Maker, client: Ipv4Addr, day: u64) {
    for _ in 0..1_500 {
        let start = (day * super::DAY) as f64 + maker.rng.f64() * super::DAY as f64;
        let server = maker.anywhere();
        maker.session(client, server, start, &DELIVERIES);
    }
}

fn newsletter(maker: &mut Maker, client: Ipv4Addr, day: u64) {
    let begin = maker.working_hour(day);
    for letter in 0..4_000 {
        let server = maker.anywhere();
        maker.session(
            client,
            server,
            begin + f64::from(letter) * 0.9,
            &["mail starttls25 medium", "mail plain25 medium"],
        );
    }
}
