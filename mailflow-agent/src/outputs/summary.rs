//! Alert as a sentence, for people and for outputs that only carry text.

use crate::config::scalar::format_duration;
use mailflow_engine::{
    event::{Alert, AlertState, Severity, Value},
    settings::unit,
};

/// Formats an alert: `smtp-burst firing: 10.20.0.2 has count 10 flows or more (threshold 10) within 1h`. A
/// source that behaves like a relay gets a hint.
pub(crate) fn summary(alert: &Alert) -> String {
    let Alert { rule, group_key: subject, deciding_term: decided, .. } = alert;
    let at_least = if matches!(decided.value, Value::AtLeast(_)) { " or more" } else { "" };
    let (state, name, window) = (alert.state.name(), &decided.name, format_duration(decided.window));
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
        "{rule} {state}: {subject} has {name} {value}{unit}{at_least} (threshold {threshold}) within {window}{hint}"
    )
}

/// Formats the value of the window.
pub(crate) fn value(alert: &Alert) -> String {
    match alert.deciding_term.value {
        Value::Unknown => "not recorded".to_owned(),
        value => scaled(value.number(), alert.deciding_term.scale),
    }
}

/// Formats the threshold.
pub(crate) fn threshold(alert: &Alert) -> String {
    scaled(alert.deciding_term.threshold, alert.deciding_term.scale)
}

/// Formats a fixed-point number.
fn scaled(number: u64, scale: u64) -> String {
    if scale <= 1 { number.to_string() } else { (number as f64 / scale as f64).to_string() }
}

/// Returns the syslog severity (RFC 5424, 6.2.1), which is also the priority of journald.
pub(crate) const fn priority(alert: &Alert) -> u8 {
    match (alert.state, alert.severity) {
        (AlertState::Resolved, _) => 6,
        (AlertState::Firing, Severity::Critical) => 2,
        (AlertState::Firing, Severity::High) => 3,
        (AlertState::Firing, Severity::Medium) => 4,
        (AlertState::Firing, Severity::Low) => 5,
    }
}
