//! `rules`: the flows that count, the window, and the condition of an alert.

pub(crate) mod allow;
mod bounds;
mod condition;
mod hours;
pub(crate) mod limits;
mod lint;
mod matching;
pub(crate) mod shipped;
mod terms;
mod thresholds;
mod window;

use std::collections::{HashMap, HashSet};

use self::window::{WINDOW_RANGE, interval, window};
use super::{
    diagnostics::DiagnosticSink,
    services::WatchedPorts,
    yaml::{
        get::{Cursor, MappingReader},
        tree::{Content, Node},
        values::{boolean, choice, entries, items, nonempty_set, number, parsed, set, string},
    },
};
pub use allow::AllowExpiry;
use mailflow_engine::{
    event::Severity,
    network::Networks,
    settings::{AllowEntry, GroupBy, Rule, RuleLimits, Term, Window, WindowKind, signature_id},
};
use matching::MatchContext;
use thresholds::ResolveSpec;

/// Maximum number of rules: each is evaluated for every record.
pub(crate) const MAX_RULES: usize = 256;

/// Rules of a configuration.
#[derive(Debug, Default)]
pub(crate) struct RuleList {
    /// Enabled rules.
    pub(crate) enabled: Vec<Rule>,
    /// Disabled rules.
    pub(crate) disabled: Vec<Rule>,
}

/// Context of reading rules.
#[derive(Clone, Copy)]
pub(crate) struct RuleContext<'a> {
    /// Watched ports, as far as they are valid. A rule's ports must be among them.
    pub(crate) watched: Option<&'a WatchedPorts>,
    /// Internal networks, if they are valid.
    pub(crate) internal: Option<&'a Networks>,
    /// Shipped rules.
    pub(crate) shipped: Option<&'a Node>,
    /// AllowEntry-list of all rules.
    pub(crate) allow: &'a [AllowEntry],
}

/// Reads the rules, and adds allow-list entries with an end to `expiries`.
pub(crate) fn read<'a>(
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    context: RuleContext<'a>,
    expiries: &mut Vec<AllowExpiry>,
) -> Option<RuleList> {
    let number = match cursor.content() {
        Content::List(rules) => rules.len(),
        _ => 0,
    };
    if number > MAX_RULES {
        return cursor.reject(diagnostics, format!("{number} rules: at most {MAX_RULES}"));
    }
    let (mut names, mut signatures) = (HashSet::new(), HashMap::new());
    let items = items(cursor, diagnostics, |item, diagnostics| {
        MappingReader::read(item, diagnostics, |mapping| {
            let name = mapping.required("name", |cursor, diagnostics| {
                let name = parsed(cursor, diagnostics, "the name of the rule", rule_name)?;
                if name == RuleLimits::FLOOD_ALERT {
                    return cursor
                        .reject(diagnostics, "this name is reserved for the alert about spoofed sources");
                }
                if !names.insert(name.clone()) {
                    return cursor.reject(diagnostics, "another rule has this name");
                }
                // Readers of EVE lines identify a rule by this number.
                let id = signature_id(&name);
                match signatures.insert(id, name.clone()) {
                    None => Some(name),
                    Some(other) => {
                        let same =
                            format!("the rule {other} has the same signature_id ({id}); rename one of them");
                        cursor.reject(diagnostics, same)
                    }
                }
            });
            let enabled = mapping.optional("enabled", true, boolean);
            let rule = rule(mapping, name, context, expiries);
            Some((enabled?, rule?))
        })
    })?;
    let mut rules = RuleList::default();
    for (enabled, rule) in items.into_iter().collect::<Option<Vec<_>>>()? {
        if enabled { rules.enabled.push(rule) } else { rules.disabled.push(rule) }
    }
    Some(rules)
}

fn rule<'a>(
    mapping: &mut MappingReader<'a, '_>,
    name: Option<String>,
    context: RuleContext<'a>,
    expiries: &mut Vec<AllowExpiry>,
) -> Option<Rule> {
    let severities = Severity::ALL.map(|severity| (severity.name(), severity));
    let version =
        mapping.optional("version", 1, |cursor, diagnostics| number(cursor, diagnostics, 1..=u32::MAX));
    let severity = mapping.optional("severity", Severity::Medium, |cursor, diagnostics| {
        choice(cursor, diagnostics, &severities)
    });
    let internal = context.internal;
    let match_context =
        MatchContext { watched: context.watched, internal, shipped: shipped_match(context.shipped) };
    let matching =
        mapping.required("match", |cursor, diagnostics| matching::read(cursor, diagnostics, match_context));
    let group_by = mapping.optional("group_by", GroupBy::Source, group_by);
    let window =
        mapping.required("window", |cursor, diagnostics| window(cursor, diagnostics, WindowKind::Sliding));
    let cursor = mapping.explicit("condition");
    // A condition is read even if the window is invalid, so that its errors are reported too.
    let reading = window.unwrap_or(Window { length: WINDOW_RANGE[0], kind: WindowKind::Sliding });
    let condition = mapping
        .required("condition", |cursor, diagnostics| condition::read(cursor, diagnostics, Some(reading)));
    let terms = condition.as_ref().map(|condition| condition.terms.as_slice());
    let resolve = match mapping.explicit("resolve") {
        Some(cursor) => thresholds::resolve(&cursor, mapping.diagnostics, terms),
        None => Some(ResolveSpec::DEFAULT),
    };
    let thresholds = mapping.optional("thresholds", Vec::new(), |cursor, diagnostics| {
        thresholds::thresholds(cursor, diagnostics, internal, terms, resolve)
    });
    let allow = mapping.optional("allow", Vec::new(), |cursor, diagnostics| {
        allow::read(cursor, diagnostics, internal, expiries)
    });
    let repeat_interval = mapping
        .optional("repeat_interval", None, |cursor, diagnostics| interval(cursor, diagnostics).map(Some));
    let labels =
        mapping.optional("labels", Vec::new(), |cursor, diagnostics| entries(cursor, diagnostics, label));
    let attack =
        mapping.optional("attack", Vec::new(), |cursor, diagnostics| set(cursor, diagnostics, technique));
    let (window, resolve, condition) = (window?, resolve?, condition?);
    let term = |term: &terms::RawTerm<'_>| Term {
        measure: term.measure,
        window: term.window,
        thresholds: resolve.term_thresholds(term.at_least),
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
        allow: [allow?, context.allow.to_vec()].concat(),
        resolve_after: resolve.after,
        repeat_interval: repeat_interval?.unwrap_or(window.length),
        labels: labels?.into_iter().collect(),
        attack: attack?.into_iter().map(str::to_owned).collect(),
    };
    lint::warn(&cursor?, &rule, &condition.terms, mapping.diagnostics);
    Some(rule)
}

/// Returns the match of the first shipped rule, which provides omitted settings of other matches.
fn shipped_match(rules: Option<&Node>) -> Option<&Node> {
    match rules.map(|rules| &rules.content) {
        Some(Content::List(rules)) => Some(&rules.first()?.get("match")?.value),
        _ => None,
    }
}

fn rule_name(text: &str) -> Result<String, String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&text.len()) && text.chars().all(is_valid) {
        Ok(text.to_owned())
    } else {
        Err("expected a name of at most 64 letters, digits, -, _ and .".to_owned())
    }
}

fn group_by(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<GroupBy> {
    const EXPECTED: &str = "expected [source], [source, destination], [destination] or [group]";
    if cursor.text().is_some() {
        return cursor.reject(diagnostics, EXPECTED);
    }
    let mut given = nonempty_set(cursor, diagnostics, |cursor, diagnostics| match cursor.text() {
        Some(word @ ("source" | "destination" | "group")) => Some(word),
        _ => cursor.reject(diagnostics, EXPECTED),
    })?;
    given.sort_unstable();
    match given.as_slice() {
        ["source"] => Some(GroupBy::Source),
        ["destination", "source"] => Some(GroupBy::SourceAndDestination),
        ["destination"] => Some(GroupBy::Destination),
        ["group"] => Some(GroupBy::Group),
        _ => cursor.reject_contents(diagnostics, EXPECTED),
    }
}

fn label(key: &str, cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<(String, String)> {
    Some((key.to_owned(), string(cursor, diagnostics)?.to_owned()))
}

/// Reads a MITRE ATT&CK technique ID.
fn technique<'a>(cursor: &Cursor<'a>, diagnostics: &mut DiagnosticSink) -> Option<&'a str> {
    let text = string(cursor, diagnostics)?;
    let digits = |part: &str, count| part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.strip_prefix('T').is_some_and(|id| match id.split_once('.') {
        Some((technique, sub)) => digits(technique, 4) && digits(sub, 3),
        None => digits(id, 4),
    });
    if id {
        Some(text)
    } else {
        cursor.reject(diagnostics, "expected a MITRE ATT&CK technique, T1048 or T1048.003")
    }
}
