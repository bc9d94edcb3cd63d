//! `tests[].alerts`: what must come.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde_yaml::Value;

use super::moment::{moment_of_test, no_rule};
use crate::config::{
    amounts::{bytes, parts},
    diagnostics::{Collector, Place},
    networks::lists::prefix,
    scalar::show_duration,
    yaml::{
        get::{At, Fields},
        tree::Content,
        values::{boolean, choice, parsed, string},
    },
};
use mailflow_engine::{
    event::{Alert, AlertState, TermValue},
    settings::Rule,
    time::Time,
};

/// An alert that must come; what is `None` may be anything.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Where that is written.
    pub place: Place,
    /// Name of the rule.
    pub rule: String,
    /// Its state.
    pub state: AlertState,
    /// When, after the beginning of the test.
    pub at: Option<Duration>,
    /// The client that it is about.
    pub source: Option<IpNet>,
    /// The server that it is about.
    pub destination: Option<IpAddr>,
    /// The group that it is about.
    pub group: Option<String>,
    /// Its value in millionths.
    pub value: Option<u128>,
    /// True if an allow-list suppresses it.
    pub suppressed: bool,
}

/// Reads an alert of one of `rules`.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector, rules: Option<&[Rule]>) -> Option<Expected> {
    const STATES: [(&str, AlertState); 2] =
        [("firing", AlertState::Firing), ("resolved", AlertState::Resolved)];
    Fields::read(at, faults, |fields| {
        let rule = fields.needed("rule", |at, faults| {
            let name = string(at, faults)?;
            match rules {
                Some(rules) if rules.iter().all(|rule| rule.name.as_ref() != name) => {
                    no_rule(at, faults, rules)
                }
                Some(_) | None => Some(name.to_owned()),
            }
        });
        let state = fields.or("state", AlertState::Firing, |at, faults| choice(at, faults, &STATES));
        let moment = fields.or("at", None, |at, faults| moment_of_test(at, faults).map(Some));
        let source =
            fields.or("source", None, |at, faults| parsed(at, faults, "an address", prefix).map(Some));
        let destination = fields.or("destination", None, |at, faults| {
            let address = |text: &str| text.parse().map_err(|_| "expected an address".to_owned());
            parsed(at, faults, "an address", address).map(Some)
        });
        let group =
            fields.or("group", None, |at, faults| string(at, faults).map(|name| Some(name.to_owned())));
        let value = fields.or("value", None, |at, faults| value(at, faults).map(Some));
        let suppressed = fields.or("suppressed", false, boolean);
        Some(Expected {
            place: at.place(fields.faults),
            rule: rule?,
            state: state?,
            at: moment?,
            source: source?,
            destination: destination?,
            group: group?,
            value: value?,
            suppressed: suppressed?,
        })
    })
}

/// A number, or bytes with a unit, in millionths.
fn value(at: &At<'_>, faults: &mut Collector) -> Option<u128> {
    const MOST: u64 = 1_000_000_000_000;
    match at.content() {
        Content::Scalar { value: Value::Number(_), .. } => {
            parts(at, faults, 0..=1_000_000 * MOST).map(u128::from)
        }
        _ => bytes(at, faults, 0..=1_000 * MOST).map(|bytes| u128::from(bytes) * 1_000_000),
    }
}

impl Expected {
    /// Returns true if `alert`, of a test that began at `start`, is what was expected.
    pub fn fits(&self, alert: &Alert, start: Time) -> bool {
        let subject = &alert.group_key;
        let source =
            |wanted: IpNet| subject.source().is_some_and(|source| source.network().contains(&wanted));
        self.rule == *alert.rule
            && self.state == alert.state
            && self.suppressed == alert.suppressed.is_some()
            && self.at.is_none_or(|at| start + at == alert.time)
            && self.source.is_none_or(source)
            && self.destination.is_none_or(|ip| subject.destination() == Some(ip))
            && self.group.as_deref().is_none_or(|name| subject.group() == Some(name))
            && self.value.is_none_or(|value| value == in_millionths(&alert.deciding_term))
    }
}

fn in_millionths(term: &TermValue) -> u128 {
    u128::from(term.value.number()) * 1_000_000 / u128::from(term.scale.max(1))
}

/// As it would be written in a file, with all that it tells.
pub fn written(alert: &Alert, start: Time) -> String {
    let subject = &alert.group_key;
    let value = in_millionths(&alert.deciding_term);
    let mut text = format!("{{ rule: {}", alert.rule);
    let mut add = |key: &str, value: &dyn fmt::Display| text.push_str(&format!(", {key}: {value}"));
    if let Some(source) = subject.source() {
        add("source", &source);
    }
    if let Some(destination) = subject.destination() {
        add("destination", &destination);
    }
    if let Some(group) = subject.group() {
        add("group", &format!("{group:?}"));
    }
    add("state", &alert.state.name());
    add("at", &show_duration(alert.time.since(start)));
    add("value", &shown(value));
    if alert.suppressed.is_some() {
        add("suppressed", &true);
    }
    text + " }"
}

/// Millionths as a number.
fn shown(value: u128) -> String {
    let text = format!("{}.{:06}", value / 1_000_000, value % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// As it is written in a file.
impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ rule: {}", self.rule)?;
        if let Some(source) = self.source {
            let host = source.prefix_len() == source.max_prefix_len();
            if host { write!(f, ", source: {}", source.addr())? } else { write!(f, ", source: {source}")? }
        }
        if let Some(destination) = self.destination {
            write!(f, ", destination: {destination}")?;
        }
        if let Some(group) = &self.group {
            write!(f, ", group: {group:?}")?;
        }
        write!(f, ", state: {}", self.state.name())?;
        if let Some(at) = self.at {
            write!(f, ", at: {}", show_duration(at))?;
        }
        if let Some(value) = self.value {
            write!(f, ", value: {}", shown(value))?;
        }
        if self.suppressed {
            f.write_str(", suppressed: true")?;
        }
        f.write_str(" }")
    }
}
