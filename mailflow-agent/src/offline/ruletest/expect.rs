//! `tests[].alerts`: expected alerts.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde_yaml::Value;

use super::offset::{test_offset, unknown_rule};
use crate::config::{
    amounts::{bytes, fraction},
    diagnostics::{DiagnosticSink, SourceLocation},
    networks::lists::prefix,
    scalar::format_duration,
    yaml::{
        get::{Cursor, MappingReader},
        tree::Content,
        values::{boolean, choice, parsed, string},
    },
};
use mailflow_engine::{
    event::{Alert, AlertState, TermValue},
    settings::Rule,
    time::Time,
};

/// Expected alert. MappingReader with `None` match any value.
#[derive(Clone, Debug)]
pub struct ExpectedAlert {
    /// Location in the file.
    pub place: SourceLocation,
    /// Name of the rule.
    pub rule: String,
    /// State of the alert.
    pub state: AlertState,
    /// Time of the alert, from the start of the test.
    pub at: Option<Duration>,
    /// Client of the group key.
    pub source: Option<IpNet>,
    /// Server of the group key.
    pub destination: Option<IpAddr>,
    /// Group of internal networks of the group key.
    pub group: Option<String>,
    /// Value in millionths.
    pub value: Option<u128>,
    /// True if an allow-list suppresses the alert.
    pub suppressed: bool,
}

/// Reads an expected alert of one of `rules`.
pub(crate) fn read(
    at: &Cursor<'_>,
    faults: &mut DiagnosticSink,
    rules: Option<&[Rule]>,
) -> Option<ExpectedAlert> {
    const STATES: [(&str, AlertState); 2] =
        [("firing", AlertState::Firing), ("resolved", AlertState::Resolved)];
    MappingReader::read(at, faults, |fields| {
        let rule = fields.required("rule", |at, faults| {
            let name = string(at, faults)?;
            match rules {
                Some(rules) if rules.iter().all(|rule| rule.name.as_ref() != name) => {
                    unknown_rule(at, faults, rules)
                }
                Some(_) | None => Some(name.to_owned()),
            }
        });
        let state = fields.optional("state", AlertState::Firing, |at, faults| choice(at, faults, &STATES));
        let offset = fields.optional("at", None, |at, faults| test_offset(at, faults).map(Some));
        let source =
            fields.optional("source", None, |at, faults| parsed(at, faults, "an address", prefix).map(Some));
        let destination = fields.optional("destination", None, |at, faults| {
            let address = |text: &str| text.parse().map_err(|_| "expected an address".to_owned());
            parsed(at, faults, "an address", address).map(Some)
        });
        let group =
            fields.optional("group", None, |at, faults| string(at, faults).map(|name| Some(name.to_owned())));
        let value = fields.optional("value", None, |at, faults| value(at, faults).map(Some));
        let suppressed = fields.optional("suppressed", false, boolean);
        Some(ExpectedAlert {
            place: at.location(fields.diagnostics),
            rule: rule?,
            state: state?,
            at: offset?,
            source: source?,
            destination: destination?,
            group: group?,
            value: value?,
            suppressed: suppressed?,
        })
    })
}

/// Reads a number, or bytes with a unit, in millionths.
fn value(at: &Cursor<'_>, faults: &mut DiagnosticSink) -> Option<u128> {
    const MAX_VALUE: u64 = 1_000_000_000_000;
    match at.content() {
        Content::Scalar { value: Value::Number(_), .. } => {
            fraction(at, faults, 0..=1_000_000 * MAX_VALUE).map(u128::from)
        }
        _ => bytes(at, faults, 0..=1_000 * MAX_VALUE).map(|bytes| u128::from(bytes) * 1_000_000),
    }
}

impl ExpectedAlert {
    /// Returns true if `alert`, in a test that began at `start`, matches.
    pub fn matches(&self, alert: &Alert, start: Time) -> bool {
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

/// Formats an alert in the syntax of the file, with all fields.
pub fn format_alert(alert: &Alert, start: Time) -> String {
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
    add("at", &format_duration(alert.time.since(start)));
    add("value", &format_millionths(value));
    if alert.suppressed.is_some() {
        add("suppressed", &true);
    }
    text + " }"
}

/// Formats millionths as a decimal number.
fn format_millionths(value: u128) -> String {
    let text = format!("{}.{:06}", value / 1_000_000, value % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Formats the alert in the syntax of the file.
impl fmt::Display for ExpectedAlert {
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
            write!(f, ", at: {}", format_duration(at))?;
        }
        if let Some(value) = self.value {
            write!(f, ", value: {}", format_millionths(value))?;
        }
        if self.suppressed {
            f.write_str(", suppressed: true")?;
        }
        f.write_str(" }")
    }
}
