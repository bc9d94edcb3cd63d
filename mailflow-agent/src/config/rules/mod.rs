//! `rules`: which flows count, over which time, and what of them is too much.

pub(crate) mod allow;
mod bounds;
mod condition;
mod hours;
mod levels;
pub(crate) mod limits;
mod matching;
mod odd;
pub(crate) mod shipped;
mod terms;
mod window;

use std::collections::{HashMap, HashSet};

use self::window::{SPAN, interval, window};
use super::{
    diagnostics::Collector,
    services::Watched,
    yaml::{
        get::{At, Fields},
        tree::{Content, Node},
        values::{boolean, choice, entries, items, nonempty_set, number, parsed, set, string},
    },
};
pub use allow::Expiry;
use levels::Resolve;
use mailflow_engine::{
    event::Severity,
    network::Networks,
    settings::{AllowEntry, GroupBy, Rule, RuleLimits, Term, Window, WindowKind, signature_id},
};
use matching::Known;

/// Most rules: each is asked about every record.
pub(crate) const MOST_RULES: usize = 256;

/// The rules of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Those to evaluate.
    pub(crate) on: Vec<Rule>,
    /// Those switched off.
    pub(crate) off: Vec<Rule>,
}

/// What rules are read with.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    /// The watched ports, as far as they could be read: a rule's ports must be among them.
    pub(crate) watched: Option<&'a Watched>,
    /// The internal networks, if they could be read.
    pub(crate) internal: Option<&'a Networks>,
    /// The shipped rules.
    pub(crate) shipped: Option<&'a Node>,
    /// What is allowed for all rules.
    pub(crate) allow: &'a [AllowEntry],
}

/// Reads the rules, and adds entries of their allow-lists that end to `ending`.
pub(crate) fn read<'a>(
    at: &At<'a>,
    faults: &mut Collector,
    around: Around<'a>,
    ending: &mut Vec<Expiry>,
) -> Option<Rules> {
    let number = match at.content() {
        Content::List(rules) => rules.len(),
        _ => 0,
    };
    if number > MOST_RULES {
        return at.fault(faults, format!("{number} rules: at most {MOST_RULES}"));
    }
    let (mut names, mut signatures) = (HashSet::new(), HashMap::new());
    let items = items(at, faults, |item, faults| {
        Fields::read(item, faults, |fields| {
            let name = fields.needed("name", |at, faults| {
                let name = parsed(at, faults, "the name of the rule", rule_name)?;
                if name == RuleLimits::FLOOD_ALERT {
                    return at.fault(faults, "the alert about spoofed sources has this name");
                }
                if !names.insert(name.clone()) {
                    return at.fault(faults, "another rule has this name");
                }
                // Readers of EVE lines know a rule by this number.
                let id = signature_id(&name);
                match signatures.insert(id, name.clone()) {
                    None => Some(name),
                    Some(other) => {
                        let same =
                            format!("the rule {other} has the same signature_id ({id}); rename one of them");
                        at.fault(faults, same)
                    }
                }
            });
            let enabled = fields.or("enabled", true, boolean);
            let rule = rule(fields, name, around, ending);
            Some((enabled?, rule?))
        })
    })?;
    let mut rules = Rules::default();
    for (enabled, rule) in items.into_iter().collect::<Option<Vec<_>>>()? {
        if enabled { rules.on.push(rule) } else { rules.off.push(rule) }
    }
    Some(rules)
}

fn rule<'a>(
    fields: &mut Fields<'a, '_>,
    name: Option<String>,
    around: Around<'a>,
    ending: &mut Vec<Expiry>,
) -> Option<Rule> {
    let severities = Severity::ALL.map(|severity| (severity.name(), severity));
    let version = fields.or("version", 1, |at, faults| number(at, faults, 1..=u32::MAX));
    let severity = fields.or("severity", Severity::Medium, |at, faults| choice(at, faults, &severities));
    let internal = around.internal;
    let known = Known { watched: around.watched, internal, shipped: shipped_match(around.shipped) };
    let matching = fields.needed("match", |at, faults| matching::read(at, faults, known));
    let group_by = fields.or("group_by", GroupBy::Source, group_by);
    let window = fields.needed("window", |at, faults| window(at, faults, WindowKind::Sliding));
    let at = fields.own("condition");
    // With a window that was refused a condition is still read, so that what is wrong with it is told.
    let reading = window.unwrap_or(Window { length: SPAN[0], kind: WindowKind::Sliding });
    let condition = fields.needed("condition", |at, faults| condition::read(at, faults, Some(reading)));
    let terms = condition.as_ref().map(|condition| condition.terms.as_slice());
    let resolve = match fields.own("resolve") {
        Some(at) => levels::resolve(&at, fields.faults, terms),
        None => Some(Resolve::DEFAULT),
    };
    let thresholds = fields
        .or("thresholds", Vec::new(), |at, faults| levels::thresholds(at, faults, internal, terms, resolve));
    let allow = fields.or("allow", Vec::new(), |at, faults| allow::read(at, faults, internal, ending));
    let repeat_interval = fields.or("repeat_interval", None, |at, faults| interval(at, faults).map(Some));
    let labels = fields.or("labels", Vec::new(), |at, faults| entries(at, faults, label));
    let attack = fields.or("attack", Vec::new(), |at, faults| set(at, faults, technique));
    let (window, resolve, condition) = (window?, resolve?, condition?);
    let term = |term: &terms::Given<'_>| Term {
        measure: term.measure,
        window: term.window,
        thresholds: resolve.level(term.at_least),
    };
    let rule = Rule {
        name: name?.into(),
        version: version?,
        severity: severity?,
        matching: matching?,
        group_by: group_by?,
        window,
        terms: condition.terms.iter().map(term).collect(),
        condition: condition.condition,
        threshold_overrides: thresholds?,
        allow: [allow?, around.allow.to_vec()].concat(),
        resolve_after: resolve.after,
        repeat_interval: repeat_interval?.unwrap_or(window.length),
        labels: labels?.into_iter().collect(),
        attack: attack?.into_iter().map(str::to_owned).collect(),
    };
    odd::warn(&at?, &rule, &condition.terms, fields.faults);
    Some(rule)
}

/// What a rule's match leaves out is that of the first shipped rule.
fn shipped_match(rules: Option<&Node>) -> Option<&Node> {
    match rules.map(|rules| &rules.content) {
        Some(Content::List(rules)) => Some(&rules.first()?.get("match")?.value),
        _ => None,
    }
}

fn rule_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&text.len()) && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("expected a name of at most 64 letters, digits, -, _ and .".to_owned())
    }
}

fn group_by(at: &At<'_>, faults: &mut Collector) -> Option<GroupBy> {
    const EXPECTED: &str = "expected [source], [source, destination], [destination] or [group]";
    if at.text().is_some() {
        return at.fault(faults, EXPECTED);
    }
    let mut given = nonempty_set(at, faults, |at, faults| match at.text() {
        Some(word @ ("source" | "destination" | "group")) => Some(word),
        _ => at.fault(faults, EXPECTED),
    })?;
    given.sort_unstable();
    match given.as_slice() {
        ["source"] => Some(GroupBy::Source),
        ["destination", "source"] => Some(GroupBy::SourceAndDestination),
        ["destination"] => Some(GroupBy::Destination),
        ["group"] => Some(GroupBy::Group),
        _ => at.fault_inside(faults, EXPECTED),
    }
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
