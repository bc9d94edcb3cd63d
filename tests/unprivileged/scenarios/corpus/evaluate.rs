//! Evaluation of the shipped rules over a history.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use mailflow_agent::config;
use mailflow_engine::{
    Engine,
    event::{Alert, AlertState},
    time::Time,
};

use super::{Attack, DAY, DAYS, HOSTS, World, benign};

/// Allow-lists in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// No allow-lists.
    None,
    /// Allow-lists of the legitimate senders.
    Sources,
    /// Allow-lists of the senders and of the provider's servers.
    Both,
}

impl Lists {
    /// Every choice.
    pub const ALL: [Lists; 3] = [Lists::None, Lists::Sources, Lists::Both];

    /// Returns the name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Lists::None => "without lists",
            Lists::Sources => "with a list of sources",
            Lists::Both => "with lists of sources and of destinations",
        }
    }
}

/// Results, by rule.
#[derive(Debug, Default)]
pub struct Found {
    /// Seconds from the start of an attack to the first alert, by attack and rule.
    pub detected: BTreeMap<(Attack, String), Vec<f64>>,
    /// Detected attacks of each kind, by any rule.
    pub any: BTreeMap<Attack, Vec<f64>>,
    /// Number of attacks of each kind.
    pub attacks: BTreeMap<Attack, usize>,
    /// False positives, by rule.
    pub wrong: BTreeMap<String, usize>,
    /// Rules.
    pub rules: Vec<String>,
}

impl Found {
    /// Returns the detected share of all attacks.
    pub fn part(&self) -> f64 {
        let found: usize = self.any.values().map(Vec::len).sum();
        found as f64 / self.attacks.values().sum::<usize>() as f64
    }

    /// Returns the number of attacks of a kind that a rule detected.
    pub fn by(&self, attack: Attack, rule: &str) -> usize {
        self.detected.get(&(attack, rule.to_owned())).map_or(0, Vec::len)
    }

    /// Returns the number of false positives.
    pub fn wrong(&self) -> usize {
        self.wrong.values().sum()
    }

    /// Formats a table: detected attacks by kind and rule, and the median time to detection.
    pub fn table(&self) -> String {
        let mut text = format!("{:<28}", "");
        for rule in self.rules.iter().map(String::as_str).chain(["any"]) {
            let _ = write!(text, "{rule:>20}");
        }
        text.push('\n');
        for (attack, number) in &self.attacks {
            let _ = write!(text, "{:<28}", attack.name());
            for rule in &self.rules {
                let times = self.detected.get(&(*attack, rule.clone()));
                let _ = write!(text, "{:>20}", cell(times.map_or(&[], Vec::as_slice), *number));
            }
            let times = self.any.get(attack).map_or(&[][..], Vec::as_slice);
            let _ = writeln!(text, "{:>20}", cell(times, *number));
        }
        let _ = write!(text, "{:<28}", "false a day, 1,000 hosts");
        let a_day = |wrong: usize| wrong as f64 / DAYS as f64 * 1_000.0 / f64::from(HOSTS);
        for rule in &self.rules {
            let _ = write!(text, "{:>20.1}", a_day(self.wrong.get(rule).copied().unwrap_or_default()));
        }
        let _ = writeln!(text, "{:>20.1}", a_day(self.wrong()));
        text
    }
}

fn cell(times: &[f64], number: usize) -> String {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    match times.get(times.len() / 2) {
        Some(middle) if *middle >= 5_400.0 => format!("{}/{number} {:.1} h", times.len(), middle / 3_600.0),
        Some(middle) => format!("{}/{number} {:.1} min", times.len(), middle / 60.0),
        None => format!("0/{number}"),
    }
}

/// Evaluates the shipped rules with these lists over the whole history.
pub fn judge(world: &World, lists: Lists) -> Found {
    let config = config::parse("scenario", &allow(world, lists)).unwrap_or_else(|faults| panic!("{faults}"));
    let rules = config.engine.rules.iter().map(|rule| rule.name.to_string()).collect();
    let mut engine = Engine::new(config.engine);
    let mut alerts: Vec<Alert> = Vec::new();
    for arrival in &world.arrivals {
        alerts.extend(engine.ingest_record(arrival.at, &arrival.record).alerts);
    }
    let end = Time::ZERO + Duration::from_secs((DAYS + 2) * DAY);
    alerts.extend(engine.tick(end).alerts);
    alerts.retain(|alert| alert.state == AlertState::Firing && alert.suppressed.is_none());
    let mut found = Found { rules, ..Found::default() };
    for incident in &world.attacks {
        *found.attacks.entry(incident.attack).or_default() += 1;
        let of = |alert: &&Alert| {
            let source = alert.group_key.source().map(|source| source.network().addr());
            source == Some(IpAddr::V4(incident.host)) && seconds(alert.starts_at) >= incident.begins as f64
        };
        let mut first = BTreeMap::new();
        for alert in alerts.iter().filter(of) {
            first.entry(alert.rule.to_string()).or_insert(seconds(alert.starts_at) - incident.begins as f64);
        }
        if let Some(soonest) = first.values().copied().min_by(f64::total_cmp) {
            found.any.entry(incident.attack).or_default().push(soonest);
        }
        for (rule, time) in first {
            found.detected.entry((incident.attack, rule)).or_default().push(time);
        }
    }
    let taken: BTreeSet<Ipv4Addr> = world.attacks.iter().map(|incident| incident.host).collect();
    let mut incidents = BTreeSet::new();
    for alert in &alerts {
        let source = alert.group_key.source().map(|source| source.network().addr());
        let innocent = source.is_some_and(|ip| matches!(ip, IpAddr::V4(v4) if !taken.contains(&v4)));
        if innocent && incidents.insert((alert.fingerprint.clone(), alert.starts_at)) {
            *found.wrong.entry(alert.rule.to_string()).or_default() += 1;
        }
    }
    found
}

fn seconds(time: Time) -> f64 {
    time.as_nanos() as f64 / 1e9
}

fn allow(world: &World, lists: Lists) -> String {
    // A configuration without any setting is an error.
    let mut text = String::from("poll_interval: 1s\n");
    if lists != Lists::None {
        text.push_str("allow:\n");
        for (host, role) in &world.senders {
            let _ = writeln!(text, "  - {{ source: {host}, destination: any, reason: \"{role:?}\" }}");
        }
    }
    if lists == Lists::Both {
        for server in benign::PROVIDER {
            let _ = writeln!(text, "  - {{ source: internal, destination: {server}, reason: provider }}");
        }
    }
    text
}
