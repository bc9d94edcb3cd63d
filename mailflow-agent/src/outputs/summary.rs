//! An alert in a sentence, for people and for what only carries text.

use crate::config::scalar::show_duration;
use mailflow_engine::{
    event::{Alert, AlertState, Severity, Value},
    settings::unit,
};

/// `smtp-burst firing: 10.20.0.2 has count 10 flows or more (threshold 10) within 1h`, and where its source behaves like
/// a relay, that.
pub(crate) fn summary(alert: &Alert) -> String {
    let Alert { rule, group_key: subject, deciding_term: decided, .. } = alert;
    let more = if matches!(decided.value, Value::AtLeast(_)) { " or more" } else { "" };
    let (state, name, window) = (alert.state.name(), &decided.name, show_duration(decided.window));
    let (value, threshold) = (value(alert), threshold(alert));
    let unit = match unit(&decided.name) {
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    let hint = match alert.relay {
        Some(relay) if alert.state == AlertState::Firing => format!("; it behaves like a relay: {relay}"),
        _ => String::new(),
    };
    format!(
        "{rule} {state}: {subject} has {name} {value}{unit}{more} (threshold {threshold}) within {window}{hint}"
    )
}

/// What the window holds, as it is shown.
pub(crate) fn value(alert: &Alert) -> String {
    match alert.deciding_term.value {
        Value::Unknown => "not recorded".to_owned(),
        value => scaled(value.number(), alert.deciding_term.scale),
    }
}

/// What it took to fire.
pub(crate) fn threshold(alert: &Alert) -> String {
    scaled(alert.deciding_term.threshold, alert.deciding_term.scale)
}

fn scaled(number: u64, scale: u64) -> String {
    if scale <= 1 { number.to_string() } else { (number as f64 / scale as f64).to_string() }
}

/// Syslog's severity (RFC 5424, 6.2.1), which is also journald's priority.
pub(crate) const fn priority(alert: &Alert) -> u8 {
    match (alert.state, alert.severity) {
        (AlertState::Resolved, _) => 6,
        (AlertState::Firing, Severity::Critical) => 2,
        (AlertState::Firing, Severity::High) => 3,
        (AlertState::Firing, Severity::Medium) => 4,
        (AlertState::Firing, Severity::Low) => 5,
    }
}
