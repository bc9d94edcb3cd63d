//! `rules`: which flows count, over which time, and how many are too many.

use std::{collections::HashSet, ops::RangeInclusive, time::Duration};

use super::{
    fault::Collector,
    matching,
    ports::Watched,
    read::{At, Fields},
    span::{Content, Node},
    typed::{boolean, choice, entries, items, nonempty_set, number, parsed, set, string},
    value::duration_within,
};
use crate::engine::{
    event::Severity,
    settings::{Rule, Window, WindowKind},
};

/// Shortest and longest window and interval.
const SPAN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30 * 86_400)];
/// The threshold of a count; a source keeps that many times.
const COUNT: RangeInclusive<u64> = 1..=1_000_000;
/// How long a value must stay low, where a rule does not say.
const RESOLVE_AFTER: Duration = Duration::from_secs(600);

/// Reads the rules; those switched off are checked and left out. Their ports must be `watched`, as
/// far as those are known.
pub(super) fn read(
    at: &At<'_>,
    faults: &mut Collector,
    watched: Option<&Watched>,
    shipped: Option<&Node>,
) -> Option<Vec<Rule>> {
    // What a rule's match leaves out is that of the first shipped rule.
    let shipped = match shipped.map(|rules| &rules.content) {
        Some(Content::List(rules)) => {
            rules.first().and_then(|rule| rule.get("match")).map(|entry| &entry.value)
        }
        _ => None,
    };
    let mut names = HashSet::new();
    let rules = items(at, faults, |item, faults| {
        Fields::read(item, faults, |fields| {
            let name = fields.needed("name", |at, faults| {
                let name = parsed(at, faults, "the name of the rule", rule_name)?;
                if names.insert(name.clone()) {
                    Some(name)
                } else {
                    at.fault(faults, "another rule has this name")
                }
            });
            let enabled = fields.or("enabled", true, boolean);
            let rule = rule(fields, name, watched, shipped);
            Some(enabled?.then_some(rule?))
        })
    })?;
    let rules: Option<Vec<_>> = rules.into_iter().collect();
    Some(rules?.into_iter().flatten().collect())
}

fn rule(
    fields: &mut Fields<'_, '_>,
    name: Option<String>,
    watched: Option<&Watched>,
    shipped: Option<&Node>,
) -> Option<Rule> {
    let severities = Severity::ALL.map(|severity| (severity.name(), severity));
    let version = fields.or("version", 1, |at, faults| number(at, faults, 1..=u32::MAX));
    let severity = fields.or("severity", Severity::Medium, |at, faults| choice(at, faults, &severities));
    let matching = fields.needed("match", |at, faults| matching::read(at, faults, watched, shipped));
    let grouped = fields.or("group_by", (), group_by);
    let window = fields.needed("window", window);
    let at_least = fields.needed("condition", condition);
    let resolve = match fields.get("resolve") {
        Some(at) => Fields::read(&at, fields.faults, |fields| resolve(Some(fields), at_least)),
        None => resolve(None, at_least),
    };
    let repeat_interval = fields.or("repeat_interval", None, |at, faults| interval(at, faults).map(Some));
    let labels = fields.or("labels", Vec::new(), |at, faults| entries(at, faults, label));
    let attack = fields.or("attack", Vec::new(), |at, faults| set(at, faults, technique));
    grouped?;
    let (window, (resolve_below, resolve_after)) = (window?, resolve?);
    Some(Rule {
        name: name?.into(),
        version: version?,
        severity: severity?,
        matching: matching?,
        window,
        at_least: at_least?,
        resolve_below,
        resolve_after,
        repeat_interval: repeat_interval?.unwrap_or(window.length),
        labels: labels?.into_iter().collect(),
        attack: attack?.into_iter().map(str::to_owned).collect(),
    })
}

fn rule_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&text.len()) && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("expected a name of at most 64 letters, digits, -, _ and .".to_owned())
    }
}

fn interval(at: &At<'_>, faults: &mut Collector) -> Option<Duration> {
    parsed(at, faults, "a duration", |text| duration_within(text, SPAN))
}

fn group_by(at: &At<'_>, faults: &mut Collector) -> Option<()> {
    nonempty_set(at, faults, |at, faults| match at.text() {
        Some("source") => Some(()),
        _ => at.fault(faults, "rules are evaluated by source; expected [source]"),
    })?;
    Some(())
}

fn window(at: &At<'_>, faults: &mut Collector) -> Option<Window> {
    const KINDS: [(&str, WindowKind); 2] =
        [("sliding", WindowKind::Sliding), ("tumbling", WindowKind::Tumbling)];
    Fields::read(at, faults, |fields| {
        let length = fields.needed("length", interval);
        let kind = fields.or("kind", WindowKind::Sliding, |at, faults| choice(at, faults, &KINDS));
        Some(Window { length: length?, kind: kind? })
    })
}

fn condition(at: &At<'_>, faults: &mut Collector) -> Option<u64> {
    Fields::read(at, faults, |fields| {
        fields.needed("count", |at, faults| {
            Fields::read(at, faults, |fields| {
                fields.needed("at_least", |at, faults| number(at, faults, COUNT))
            })
        })
    })
}

/// `resolve.below` and `resolve.after`. Without a threshold (it was refused) the first is not judged.
fn resolve(fields: Option<&mut Fields<'_, '_>>, at_least: Option<u64>) -> Option<(u64, Duration)> {
    let highest = at_least.map(|at_least| at_least.saturating_sub(1).max(1));
    // Whole values below 0.8 x threshold are those below the next whole number.
    let default =
        at_least.zip(highest).map_or(1, |(at_least, highest)| (at_least * 4).div_ceil(5).min(highest));
    let Some(fields) = fields else { return Some((default, RESOLVE_AFTER)) };
    let below = fields.or("below", default, |at, faults| {
        let below = number(at, faults, COUNT)?;
        match highest {
            Some(highest) if below > highest => {
                at.fault(faults, format!("expected less than condition.count.at_least: at most {highest}"))
            }
            _ => Some(below),
        }
    });
    let after = fields.or("after", RESOLVE_AFTER, |at, faults| {
        parsed(at, faults, "a duration", |text| duration_within(text, [Duration::ZERO, SPAN[1]]))
    });
    Some((below?, after?))
}

fn label(key: &str, at: &At<'_>, faults: &mut Collector) -> Option<(String, String)> {
    Some((key.to_owned(), string(at, faults)?.to_owned()))
}

/// A MITRE ATT&CK technique id.
fn technique<'a>(at: &At<'a>, faults: &mut Collector) -> Option<&'a str> {
    let text = string(at, faults)?;
    let digits = |part: &str, count| part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.strip_prefix('T').is_some_and(|id| match id.split_once('.') {
        Some((technique, sub)) => digits(technique, 4) && digits(sub, 3),
        None => digits(id, 4),
    });
    if id { Some(text) } else { at.fault(faults, "expected a MITRE ATT&CK technique, T1048 or T1048.003") }
}
