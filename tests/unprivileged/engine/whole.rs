//! Generators for all features together: rules of every kind, reloads, restarts, the wall clock, gaps.

use std::time::Duration;

use mailflow_engine::{
    network::{AddressSet, Member, Network, Networks},
    settings::{
        AllowEntry, Bound, Hours, Match, Measure, Quantity, Rule, Settings, ThresholdOverride, Thresholds,
        Timeouts,
    },
};
use proptest::prelude::*;

use super::{
    histories::{SECOND, defaults, rules},
    process::KillPoint,
};
use crate::model::Nanos;

/// Event between polls.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Reload with other settings.
    Reload(Settings),
    /// Step of the wall clock, in seconds.
    Set(i64),
    /// Restart of the agent; its maps stay.
    Replaced,
    /// Stop that removes the maps; another agent starts with empty ones.
    Stopped,
    /// Kill during a poll, and the time until the next agent starts.
    Killed(KillPoint, Nanos),
}

/// Events with their times, in thousandths of the run.
pub(crate) type Events = Vec<(u64, Event)>;

/// Generates initial settings and events.
pub(crate) fn plot() -> impl Strategy<Value = (Settings, Events)> {
    let short =
        Timeouts { idle: Duration::from_secs(40), active: Duration::from_secs(45), ..Timeouts::default() };
    let timeouts = prop_oneof![Just(Timeouts::default()), Just(short)];
    let first = (prop::collection::vec(any_rule(), 1..4), networks());
    (timeouts, first, prop::collection::vec((0..1_000u64, drafts()), 0..6)).prop_map(
        |(timeouts, (rules, internal), drafts)| {
            let first = Settings { timeouts, internal, rules: named(rules), ..defaults() };
            let mut settings = first.clone();
            let mut drafts = drafts;
            drafts.sort_by_key(|(at, _)| *at);
            let event = |draft| match draft {
                FrameSpec::Reload(changes, internal) => {
                    settings.rules = changed(&settings.rules, changes);
                    settings.internal = internal.unwrap_or(settings.internal.clone());
                    Event::Reload(settings.clone())
                }
                FrameSpec::Event(event) => event,
            };
            let (at, drafts): (Vec<u64>, Vec<FrameSpec>) = drafts.into_iter().unzip();
            (first, at.into_iter().zip(drafts.into_iter().map(event)).collect())
        },
    )
}

/// Event whose settings depend on the settings before.
#[derive(Clone, Debug)]
enum FrameSpec {
    Reload(Vec<Change>, Option<Networks>),
    Event(Event),
}

/// Change of a rule by a reload.
#[derive(Clone, Debug)]
enum Change {
    Stays,
    Goes,
    /// Replaces thresholds and allow-list by those of another rule, as far as they fit.
    Lists(Rule),
    /// Replaces windows and match by those of another rule.
    Meaning(Rule),
    Grouping(Rule),
    Comes(Rule),
}

fn drafts() -> impl Strategy<Value = FrameSpec> {
    let change = prop_oneof![
        2 => Just(Change::Stays),
        1 => Just(Change::Goes),
        3 => any_rule().prop_map(Change::Lists),
        1 => any_rule().prop_map(Change::Meaning),
        1 => any_rule().prop_map(Change::Grouping),
        1 => any_rule().prop_map(Change::Comes),
    ];
    let changes = prop::collection::vec(change, 1..5);
    let point = prop::sample::select(&KillPoint::ALL[..]);
    let away = prop_oneof![Just(0), (0..400u64).prop_map(|seconds| seconds * SECOND)];
    let steps = prop::sample::select(&[-7_200i64, -61, 1, 59, 1_800, 3_600, 40_000, 90_000][..]);
    prop_oneof![
        4 => (changes, prop::option::of(networks())).prop_map(|(changes, nets)| FrameSpec::Reload(changes, nets)),
        2 => steps.prop_map(|step| FrameSpec::Event(Event::Set(step))),
        2 => Just(FrameSpec::Event(Event::Replaced)),
        1 => Just(FrameSpec::Event(Event::Stopped)),
        4 => (point, away).prop_map(|(point, away)| FrameSpec::Event(Event::Killed(point, away))),
    ]
}

/// Returns the rules after a reload; each new rule has an unused name.
fn changed(before: &[Rule], changes: Vec<Change>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut left = before.iter();
    let number =
        |rule: &Rule| rule.name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap();
    let mut next = before.iter().map(number).max().unwrap_or(0) + 1;
    for change in changes {
        let old = match &change {
            Change::Comes(_) => None,
            _ => left.next(),
        };
        rules.extend(match (change, old) {
            (Change::Comes(rule), _) => {
                next += 1;
                Some(Rule { name: format!("w{next}").into(), ..rule })
            }
            (Change::Stays, Some(old)) => Some(old.clone()),
            (Change::Lists(other), Some(old)) => Some(listed(old, other)),
            (Change::Meaning(other), Some(old)) => {
                Some(Rule { name: old.name.clone(), group_by: old.group_by, ..other })
            }
            (Change::Grouping(other), Some(old)) => {
                Some(Rule { name: old.name.clone(), group_by: other.group_by, ..old.clone() })
            }
            (Change::Goes, _) | (_, None) => None,
        });
    }
    // Rules without a change stay, in another order.
    rules.splice(0..0, left.cloned());
    rules
}

/// Returns `old` with the thresholds, lists and times of `other`.
fn listed(old: &Rule, other: Rule) -> Rule {
    let mut rule = old.clone();
    for (term, others) in rule.terms.iter_mut().zip(&other.terms) {
        if std::mem::discriminant(&term.measure) == std::mem::discriminant(&others.measure) {
            term.thresholds = others.thresholds;
        }
    }
    rule.threshold_overrides =
        with_thresholds(&rule, other.threshold_overrides.iter().map(|some| (some.of.clone(), 2)).collect());
    (rule.allow, rule.resolve_after, rule.repeat_interval) =
        (other.allow, other.resolve_after, other.repeat_interval);
    rule
}

fn named(rules: Vec<Rule>) -> Vec<Rule> {
    let named = |(n, rule): (usize, Rule)| Rule { name: format!("w{n}").into(), ..rule };
    rules.into_iter().enumerate().map(named).collect()
}

fn networks() -> impl Strategy<Value = Networks> {
    let line = |line: &str, group: Option<&str>| Network {
        group: group.map(str::to_owned),
        exclude: line.starts_with('!'),
        ..Network::new(line.trim_start_matches('!').parse().unwrap(), line)
    };
    let plain = vec![line("10.0.0.0/8", None), line("fd00::/8", None)];
    let grouped = vec![
        line("10.0.0.0/8", Some("lan")),
        line("10.0.0.2/32", Some("branch")),
        line("fd00::/8", Some("lan")),
    ];
    let holes = vec![line("10.0.0.0/8", Some("lan")), line("!10.0.0.2/32", None), line("fd00::/8", None)];
    prop::sample::select(vec![plain, grouped.clone(), grouped, holes]).prop_map(Networks::new)
}

fn set() -> impl Strategy<Value = AddressSet> {
    let net = |net: &str| Member::Net(net.parse().unwrap());
    let one = |member: Member| AddressSet::from(member);
    prop::sample::select(vec![
        one(net("10.0.0.1/32")),
        one(net("10.0.0.2/32")),
        one(net("fd00::/64")),
        one(net("9.9.9.9/32")),
        one(net("2620:fe::/32")),
        one(Member::Group("branch".into())),
        one(Member::Any),
        AddressSet::new(vec![Member::Internal], vec![net("10.0.0.1/32")]),
        AddressSet::new(Vec::new(), vec![Member::Group("lan".into())]),
    ])
}

fn allow() -> impl Strategy<Value = AllowEntry> {
    let until = prop::option::of((0..6_000i128).prop_map(|seconds| seconds * 1_000_000_000));
    (set(), prop_oneof![Just(AddressSet::default()), set()], until, 0..3u8).prop_map(
        |(source, destination, until, reason)| AllowEntry {
            source,
            destination,
            reason: format!("known {reason}").into(),
            until,
        },
    )
}

fn bound() -> impl Strategy<Value = Bound> {
    let quantities = vec![
        Quantity::DataPacketsUp,
        Quantity::DataPacketsDown,
        Quantity::PayloadUp,
        Quantity::PacketsDown,
        Quantity::Messages,
    ];
    let most = || prop::option::weighted(0.3, prop::sample::select(&[3u64, 40, 2_000][..]));
    (prop::sample::select(quantities), 0..4u64, most(), most())
        .prop_map(|(of, at_least, at_most, at_most_tls)| Bound { of, at_least, at_most, at_most_tls })
}

fn hours() -> impl Strategy<Value = Hours> {
    let offset = prop::sample::select(&[0, 3_600, -5_400, 59][..]);
    // The clock begins on a Thursday, at midnight.
    let days = prop_oneof![3 => Just(127u8), 1 => 1..128u8];
    let minute = || prop_oneof![3 => 1..100u16, 1 => 1..1_440u16];
    (days, minute(), minute(), offset).prop_map(|(days, from, to, utc_offset)| Hours {
        days,
        from,
        to,
        utc_offset,
    })
}

fn matching(base: Match) -> impl Strategy<Value = Match> {
    let source = prop_oneof![6 => Just(AddressSet::from(Member::Internal)), 1 => Just(AddressSet::default()), 1 => set()];
    let destination = prop_oneof![6 => Just(AddressSet::from(Member::External)), 1 => Just(AddressSet::default()), 1 => set()];
    let ports = prop_oneof![
        3 => Just(base.ports.clone()),
        1 => Just(vec![25]),
        1 => Just(vec![25, 465, 587, 993, 994, 8025]),
    ];
    let rest = (
        prop::bool::weighted(0.15),
        prop::collection::vec(bound(), 0..2),
        prop::option::weighted(0.2, hours()),
    );
    (source, destination, ports, rest).prop_map(move |(source, destination, ports, rest)| {
        let (sessions_only, bounds, hours) = rest;
        Match { source, destination, ports, sessions_only, bounds, hours, ..base.clone() }
    })
}

/// Returns per-source threshold_overrides: the default thresholds times a factor.
fn with_thresholds(rule: &Rule, of: Vec<(AddressSet, u64)>) -> Vec<ThresholdOverride> {
    let times = |thresholds: Thresholds, measure: Measure, factor: u64| match measure {
        Measure::Ratio { .. } => thresholds,
        _ => Thresholds {
            at_least: thresholds.at_least * factor,
            resolve_below: thresholds.resolve_below * factor,
        },
    };
    let some = |(of, factor): (AddressSet, u64)| ThresholdOverride {
        of,
        thresholds: rule.terms.iter().map(|term| times(term.thresholds, term.measure, factor)).collect(),
    };
    of.into_iter().map(some).collect()
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let thresholds = prop::collection::vec((set(), 2..4u64), 0..3);
    let allow = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(allow(), 1..3)];
    (rules::any_whole(), thresholds, allow).prop_flat_map(|(rule, thresholds, allow)| {
        matching(rule.matching.clone()).prop_map(move |matching| {
            let thresholds = with_thresholds(&rule, thresholds.clone());
            Rule { matching, threshold_overrides: thresholds, allow: allow.clone(), ..rule.clone() }
        })
    })
}
