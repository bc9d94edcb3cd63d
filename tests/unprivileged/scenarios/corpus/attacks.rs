//! Attacks: mail from compromised hosts.

use std::net::Ipv4Addr;

use super::{DAY, DAYS, HOSTS, Incident, Maker, benign};

/// Type of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attack {
    /// Stolen mail account: mails through its provider.
    StolenAccount,
    /// Spam directly to the recipients' servers, much of it rejected.
    SpamBot,
    /// Spam bot behind a firewall: SYNs without an answer.
    BlockedBot,
    /// A thousand mails in one connection.
    OneConnection,
    /// Twelve uploads of ten megabytes over TLS.
    Upload,
    /// Fewer than nine mails an hour, for a day.
    SlowDrip,
    /// Password guessing at one server.
    Guessing,
}

impl Attack {
    /// Every attack.
    pub const ALL: [Attack; 7] = [
        Attack::StolenAccount,
        Attack::SpamBot,
        Attack::BlockedBot,
        Attack::OneConnection,
        Attack::Upload,
        Attack::SlowDrip,
        Attack::Guessing,
    ];

    /// Returns the name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Attack::StolenAccount => "stolen account",
            Attack::SpamBot => "spam bot",
            Attack::BlockedBot => "blocked bot, SYNs only",
            Attack::OneConnection => "1,000 mails, one connection",
            Attack::Upload => "12 x 10 MB over TLS",
            Attack::SlowDrip => "slow drip, < 9 an hour",
            Attack::Guessing => "password guessing",
        }
    }
}

/// Number of hosts per attack.
const EACH: u32 = 20;

/// Adds every attack, each on its own hosts and at random times.
pub(super) fn strike(maker: &mut Maker) {
    let mut host = HOSTS - 1;
    for attack in Attack::ALL {
        for _ in 0..EACH {
            let client = benign::address(host);
            host -= 1;
            // No attack begins on the last day: some take a day.
            let begins = maker.rng.u64(..(DAYS - 1) * DAY);
            maker.world.attacks.push(Incident { attack, host: client, begins });
            run(maker, attack, client, begins as f64);
        }
    }
}

fn run(maker: &mut Maker, attack: Attack, client: Ipv4Addr, begins: f64) {
    match attack {
        Attack::StolenAccount => {
            let (server, mails) = (maker.anywhere(), maker.rng.u32(40..200));
            let kinds = ["mail starttls587 small", "mail smtps465 small", "mail starttls587 medium"];
            spread(maker, client, begins, mails, 3_600.0, |_| server, &kinds);
        }
        Attack::SpamBot => {
            let mails = maker.rng.u32(100..1_000);
            let kinds = [
                "mail plain25 small",
                "mail pipe25 small",
                "mail starttls25 small",
                "rej bl",
                "rej bl_tls",
                "rej b554",
                "rej nouser",
                "dead rst",
            ];
            spread(maker, client, begins, mails, 3_600.0, Maker::anywhere, &kinds);
        }
        Attack::BlockedBot => {
            let attempts = maker.rng.u32(60..400);
            spread(maker, client, begins, attempts, 3_600.0, Maker::anywhere, &["dead syn"]);
        }
        Attack::OneConnection => {
            let server = maker.anywhere();
            maker.long(client, server, begins, "mail smtps465 many", 50);
        }
        Attack::Upload => {
            let server = maker.anywhere();
            for upload in 0..12 {
                maker.session(client, server, begins + f64::from(upload) * 180.0, &["mail smtps465 huge"]);
            }
        }
        Attack::SlowDrip => {
            for mail in 0..9 * 24 {
                let server = maker.anywhere();
                let start = begins + f64::from(mail) * 405.0;
                maker.session(client, server, start, &["mail starttls25 small", "mail plain25 medium"]);
            }
        }
        Attack::Guessing => {
            let (server, tries) = (maker.anywhere(), maker.rng.u32(60..400));
            spread(maker, client, begins, tries, 3_600.0, |_| server, &["auth 1", "auth 2", "auth 3"]);
        }
    }
}

/// Adds `times` sessions at random times within `seconds`.
fn spread(
    maker: &mut Maker,
    client: Ipv4Addr,
    begins: f64,
    times: u32,
    seconds: f64,
    mut server: impl FnMut(&mut Maker) -> Ipv4Addr,
    kinds: &[&str],
) {
    for _ in 0..times {
        let (server, start) = (server(maker), begins + maker.rng.f64() * seconds);
        maker.session(client, server, start, kinds);
    }
}
