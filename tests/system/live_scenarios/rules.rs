//! The shipped rules, generated from the shipped file, with all times divided.

use std::{fmt::Write as _, net::IpAddr, time::Duration};

use mailflow_agent::config;
use mailflow_engine::settings::{Rule, Timeouts};
use serde_yaml::{Mapping, Value};

/// Settings of a rule that are times.
const TIMES: [&str; 6] = ["window", "length", "after", "repeat_interval", "horizon", "learning"];
/// Minimum value of `timeouts`.
const LEAST: Duration = Duration::from_millis(100);
/// Pause of a real kernel or mail server on a busy machine within a connection.
const SILENCE: Duration = Duration::from_secs(2);

/// Returns the shipped configuration with an allow-list of these sources.
pub(super) fn shipped(known: &[(IpAddr, &str)]) -> String {
    // A configuration without any setting is an error.
    format!("poll_interval: 1s\n{}", allow(known))
}

/// Returns the shipped configuration with times divided by `factor`, for the lab's gateway.
pub(super) fn squeezed(factor: u32, known: &[(IpAddr, &str)]) -> String {
    let file = include_str!("../../../config/mailflow.yaml");
    let mut whole: Value = serde_yaml::from_str(file).unwrap();
    let shipped = config::parse("shipped", &self::shipped(known)).unwrap_or_else(|faults| panic!("{faults}"));
    let rules = whole["rules"].as_sequence_mut().unwrap();
    for rule in rules.iter_mut() {
        squeeze(rule, "", factor);
        // A rule's default resolve time is divided too.
        let judged = shipped.engine.rules.iter().find(|judged| Some(&*judged.name) == rule["name"].as_str());
        if let Some(judged) = judged
            && rule.get("resolve").is_none()
        {
            let mut resolve = Mapping::new();
            resolve.insert("after".into(), shown(judged.resolve_after / factor).into());
            rule["resolve"] = resolve.into();
        }
    }
    let Timeouts { closed, idle, unanswered, active } = shipped.engine.timeouts;
    let [closed, active] = [closed, active].map(|timeout| (timeout / factor).max(LEAST));
    let [idle, unanswered] = [idle, unanswered].map(|timeout| (timeout / factor).max(SILENCE));
    let mut text = format!(
        "interfaces: [{{ name: lan0, role: lan }}]\npoll_interval: 100ms\ntimeouts: {{ closed: {}, idle: {}, \
         unanswered: {}, active: {} }}\n{}",
        shown(closed),
        shown(idle),
        shown(unanswered),
        shown(active),
        allow(known)
    );
    let mut section = Mapping::new();
    section.insert("rules".into(), rules.clone().into());
    text += &serde_yaml::to_string(&section).unwrap();

    // All times are divided, and nothing else differs.
    let found = config::parse("squeezed", &text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    let expected: Vec<_> = shipped.engine.rules.iter().map(|rule| in_less(rule, factor)).collect();
    assert_eq!(found.engine.rules, expected);
    text
}

fn allow(known: &[(IpAddr, &str)]) -> String {
    let mut text = String::new();
    for (number, (source, reason)) in known.iter().enumerate() {
        let section = if number == 0 { "allow:\n" } else { "" };
        let _ = writeln!(text, "{section}  - {{ source: {source}, destination: any, reason: {reason} }}");
    }
    text
}

fn squeeze(value: &mut Value, key: &str, factor: u32) {
    match value {
        Value::Mapping(entries) => {
            for (key, value) in entries {
                squeeze(value, key.as_str().unwrap_or_default(), factor);
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(|item| squeeze(item, "", factor)),
        Value::String(text) if TIMES.contains(&key) => *text = shown(duration(text) / factor),
        _ => {}
    }
}

fn duration(text: &str) -> Duration {
    let unit = text.find(|letter: char| !letter.is_ascii_digit()).unwrap();
    let (number, unit) = (text[..unit].parse().unwrap(), &text[unit..]);
    match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3_600),
        "d" => Duration::from_secs(number * 86_400),
        _ => panic!("{text} is no duration"),
    }
}

fn shown(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// Returns the rule with every time divided, rounded down to milliseconds as in a file.
fn in_less(rule: &Rule, factor: u32) -> Rule {
    let less = |time: &mut Duration| *time = Duration::from_millis((*time / factor).as_millis() as u64);
    let mut rule = rule.clone();
    let terms = rule.terms.iter_mut().map(|term| &mut term.window.length);
    terms.chain([&mut rule.window.length, &mut rule.resolve_after, &mut rule.repeat_interval]).for_each(less);
    rule
}
