//! Rule language: the meaning of rules, and the error of each mistake.

use std::time::Duration;

use mailflow_engine::{
    network::{AddressSet, Member},
    settings::{
        Bound, Condition, Endpoint, FlowClass, GroupBy, Hours, Match, Measure, Quantity, Rule, Term,
        Thresholds, Window, WindowKind,
    },
};

use super::{faults, good, warnings_but_of_replaced_rules};

/// Rule with most features of the language, into which the mistakes below are inserted.
const RULE: &str = "\
internal_networks: { networks: [{ cidr: 10.0.0.0/8, group: office }] }
allow:
  - { destination: 192.0.2.25, reason: the archive }
rules:
  - name: r
    match:
      source: [internal, \"!role:mta\"]
      destination: external
      ports: [25, 587]
      sessions_only: true
      flow:
        payload_up: { at_least: 10kB, below: 1MB, at_most_encrypted: 2MB }
        messages: { at_least: 1 }
      hours: { days: [sat, sun], from: \"18:00\", to: \"06:00\", utc_offset: \"+01:00\" }
    group_by: [source, destination]
    window: { length: 1h }
    condition:
      any:
        - sum: { of: payload_up, at_least: 20MB, window: 24h }
        - all:
            - count: { of: delivering, at_least: 20 }
            - ratio: { of: sessions, to: attempts, at_least: 0.5 }
            - distinct: { of: port, among: sessions, at_least: 2, window: { length: 2h, kind: tumbling } }
        - first_seen: { of: port, at_least: 1, horizon: 7d, learning: 12h }
    resolve: { factor: 0.5, after: 1m }
    thresholds:
      - { for: \"group:office\", factor: 2.5 }
    allow:
      - { source: \"role:newsletter\", reason: wanted, until: 2027-01-01 }
";

fn rule(text: &str) -> Rule {
    good(text).engine.rules.remove(0)
}

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn rule_fields_are_parsed() {
    let rule = rule(RULE);
    assert_eq!(rule.group_by, GroupBy::SourceAndDestination);
    assert_eq!(rule.matching.source.to_string(), "internal, !role:mta");
    assert!(rule.matching.sessions_only);
    let bound = |of, at_least, at_most, at_most_tls| Bound { of, at_least, at_most, at_most_tls };
    assert_eq!(
        rule.matching.bounds,
        [
            bound(Quantity::PayloadUp, 10_000, Some(999_999), Some(2_000_000)),
            bound(Quantity::Messages, 1, None, None)
        ]
    );
    let hours = Hours { days: 0b110_0000, from: 18 * 60, to: 6 * 60, utc_offset: 3_600 };
    assert_eq!(rule.matching.hours, Some(hours));

    let window = |length, kind| Window { length, kind };
    let sliding = |length| window(length, WindowKind::Sliding);
    let terms: Vec<_> = rule.terms.iter().map(|term| (term.measure, term.window, term.thresholds)).collect();
    let level = |at_least, resolve_below| Thresholds { at_least, resolve_below };
    assert_eq!(
        terms,
        [
            (Measure::Sum(Quantity::PayloadUp), sliding(24 * HOUR), level(20_000_000, 10_000_000)),
            (Measure::Count(FlowClass::Delivering), sliding(HOUR), level(20, 10)),
            (
                Measure::Ratio { of: FlowClass::Sessions, to: FlowClass::Attempts },
                sliding(HOUR),
                level(500_000, 250_000)
            ),
            (
                Measure::Distinct { of: Endpoint::Port, among: FlowClass::Sessions },
                window(2 * HOUR, WindowKind::Tumbling),
                level(2, 1)
            ),
            (
                Measure::FirstSeen { of: Endpoint::Port, horizon: 168 * HOUR, learning: 12 * HOUR },
                sliding(HOUR),
                level(1, 1)
            ),
        ]
    );
    let all = Condition::All(vec![Condition::Term(1), Condition::Term(2), Condition::Term(3)]);
    assert_eq!(rule.condition, Condition::Any(vec![Condition::Term(0), all, Condition::Term(4)]));
    assert_eq!(rule.resolve_after, Duration::from_secs(60));
    let [office] = rule.threshold_overrides.as_slice() else { panic!("one") };
    assert_eq!(office.of, AddressSet::from(Member::Group("office".into())));
    assert_eq!(
        office.thresholds,
        [level(50_000_000, 25_000_000), level(50, 25), level(500_000, 250_000), level(5, 3), level(3, 2)],
        "a ratio stays what it is"
    );
    let allow: Vec<_> = rule.allow.iter().map(|allow| (allow.reason.as_ref(), allow.until)).collect();
    assert_eq!(allow, [("wanted", Some(1_798_761_600_000_000_000)), ("the archive", None)], "own first");
}

/// Compares the shipped rules with the documents; `smtp-burst` is compared in full elsewhere, with the other
/// defaults.
#[test]
fn shipped_rules_equal_documentation() {
    let config = good("{}");
    let terms = |name: &str| -> Vec<_> {
        let rule =
            config.engine.rules.iter().chain(&config.disabled_rules).find(|rule| rule.name.as_ref() == name);
        let terms = &rule.unwrap().terms;
        let hours = |term: &Term| term.window.length.as_secs() / 3_600;
        terms.iter().map(|term| (term.measure.name(), term.thresholds.at_least, hours(term))).collect()
    };
    let term = |name: &str, at_least, hours| (name.to_owned(), at_least, hours);
    assert_eq!(
        terms("smtp-bulk"),
        [
            term("sum payload_up", 20_000_000, 1),
            term("sum messages", 60, 1),
            term("count failed", 20, 1),
            term("ratio failed/attempts", 500_000, 1),
            term("distinct destination among failed", 10, 1),
            term("count delivering", 60, 24),
        ]
    );
    assert_eq!(terms("smtp-auth-guess"), [term("count", 30, 1)]);
    assert_eq!(
        terms("mail-server-fan-in"),
        [term("distinct source", 5, 24), term("first_seen destination", 1, 24)]
    );

    let [burst, bulk, guess] = config.engine.rules.as_slice() else { panic!("three") };
    let all = |terms: &[usize]| Condition::All(terms.iter().copied().map(Condition::Term).collect());
    let any = [Condition::Term(0), Condition::Term(1), all(&[2, 3, 4]), Condition::Term(5)];
    assert_eq!(bulk.condition, Condition::Any(any.into()));
    assert_eq!(bulk.matching, Match { size: None, ..burst.matching.clone() });
    let of = |of, at_least, at_most, at_most_tls| Bound { of, at_least, at_most, at_most_tls };
    let bounds = vec![
        of(Quantity::PayloadUp, 0, Some(399), Some(1_200)),
        of(Quantity::Messages, 0, Some(0), None),
        of(Quantity::DataPacketsDown, 5, None, None),
    ];
    let sessions = Match { sessions_only: true, bounds, ..bulk.matching.clone() };
    assert_eq!((&guess.matching, guess.group_by), (&sessions, GroupBy::SourceAndDestination));
    let [fan_in] = config.disabled_rules.as_slice() else { panic!("one") };
    assert_eq!((&fan_in.matching, fan_in.group_by), (&bulk.matching, GroupBy::Destination));
    assert_eq!(fan_in.condition, all(&[0, 1]));
}

/// Returns a rule with one term, followed by `more`.
fn one(term: &str, more: &str) -> String {
    format!("rules: [{{ name: r, match: {{}}, window: {{ length: 1h }}, condition: {{ {term} }}, {more} }}]")
}

#[test]
fn single_term_has_thresholds_in_its_unit() {
    let levels = |term: &str, more: &str| {
        let rule = rule(&one(term, more));
        let levels = rule.terms.iter().map(|term| term.thresholds);
        let levels = levels.chain(rule.threshold_overrides.iter().flat_map(|other| other.thresholds.clone()));
        levels.map(|level| (level.at_least, level.resolve_below)).collect::<Vec<_>>()
    };
    let sum = "sum: { of: bytes_up, at_least: 1MiB }";
    assert_eq!(levels(sum, ""), [(1_048_576, 838_861)]);
    assert_eq!(
        levels(sum, "resolve: { below: 512KiB }, thresholds: [{ for: 10.0.0.1, at_least: 2MiB }]"),
        [(1_048_576, 524_288), (2_097_152, 1_048_576)],
        "the same part of each"
    );
    assert_eq!(levels("ratio: { of: failed, to: attempts, at_least: 1 }", ""), [(1_000_000, 800_000)]);
    assert_eq!(levels("count: { at_least: 1 }", "resolve: { below: 1 }"), [(1, 1)]);
    assert_eq!(
        levels("count: { at_least: 10 }", "thresholds: [{ for: any, factor: 0.05 }]"),
        [(10, 8), (1, 1)],
        "never less than one"
    );
}

#[test]
fn window_may_be_only_a_length() {
    let whole = one("count: { at_least: 3, window: 2h }", "");
    assert_eq!(rule(&whole.replace("{ length: 1h }", "1h")), rule(&whole));
}

#[test]
fn rule_has_four_group_keys() {
    for (typed, group_by) in [
        ("[source]", GroupBy::Source),
        ("[destination, source]", GroupBy::SourceAndDestination),
        ("[destination]", GroupBy::Destination),
        ("[group]", GroupBy::Group),
    ] {
        let text = one("count: { at_least: 1 }", &format!("group_by: {typed}"));
        assert_eq!(rule(&text).group_by, group_by);
    }
}

#[test]
fn unsatisfiable_conditions_are_warned() {
    for (term, more, warning) in [
        (
            "distinct: { of: source, at_least: 2 }",
            "",
            "condition.distinct: never holds: the rule groups by source",
        ),
        ("distinct: { of: destination, at_least: 2 }", "group_by: [destination]", "groups by destination"),
        ("distinct: { of: port, at_least: 5 }", "", "4 ports match, and the threshold is 5"),
        (
            "ratio: { of: failed, to: attempts, at_least: 0.5 }",
            "",
            "condition: a ratio alone holds at the first",
        ),
        (
            "any: [{ count: { at_least: 9 } }, { ratio: { of: failed, to: attempts, at_least: 1 } }]",
            "",
            "a ratio alone",
        ),
    ] {
        let found = warnings_but_of_replaced_rules(&good(&one(term, more)));
        assert!(found.len() == 1 && found[0].contains(warning), "{term}: {found:?}");
    }
    let matching = |term: &str, matching: &str| {
        warnings_but_of_replaced_rules(&good(&one(term, "").replace("match: {}", matching)))
    };
    for (term, only, warning) in [
        (
            "count: { of: delivering, at_least: 2 }",
            "flow: { messages: { at_most: 0 } }",
            "no flow with a message",
        ),
        ("sum: { of: messages, at_least: 2 }", "flow: { messages: { below: 1 } }", "no flow with a message"),
        (
            "count: { of: failed, at_least: 2 }",
            "flow: { messages: { at_least: 1 } }",
            "only flows with a message",
        ),
        ("distinct: { of: port, among: attempts, at_least: 2 }", "protocols: [udp]", "only TCP has a SYN"),
    ] {
        let found = matching(term, &format!("match: {{ {only} }}"));
        assert!(found.len() == 1 && found[0].contains(warning), "{term}: {found:?}");
    }
    let sound = "all: [{ count: { at_least: 9 } }, { ratio: { of: failed, to: attempts, at_least: 1 } }]";
    assert_eq!(warnings_but_of_replaced_rules(&good(&one(sound, ""))), Vec::<String>::new());
    assert_eq!(warnings_but_of_replaced_rules(&good(RULE)), Vec::<String>::new());
}

#[test]
fn expired_allow_entries_are_warned() {
    let config = good(RULE);
    const END: i128 = 1_798_761_600_000_000_000;
    assert_eq!(config.expired_allow_entries(END - 1).count(), 0);
    let over: Vec<_> = config.expired_allow_entries(END).map(ToString::to_string).collect();
    assert_eq!(
        over,
        [
            "f.yaml:29:61: rules[0].allow[0].until: \"2027-01-01\": expired: flows that match this entry cause alerts again"
        ]
    );
}

/// Mistakes: original text, replacement, and the only error line.
#[rustfmt::skip]
const BROKEN: &[(&str, &str, &str)] = &[
    ("sum: {", "sums: {", "19:11: rules[0].condition.any[0].sums: unknown key; did you mean sum?"),
    ("of: payload_up, at_least", "of: payload, at_least", r#"19:22: rules[0].condition.any[0].sum.of: "payload": expected one of payload_up, payload_down, bytes_up, bytes_down, packets_up, packets_down, messages, data_packets_up, data_packets_down; did you mean payload_up?"#),
    ("of: payload_up, at_least", "of: failed, at_least", r#"19:22: rules[0].condition.any[0].sum.of: "failed": a kind of flow, which is counted: count: { of: failed }"#),
    ("of: payload_up, at_least", "of: data_packets_up, at_least", r#"19:49: rules[0].condition.any[0].sum.at_least: "20MB": expected a whole number from 1 to 1000000000000000"#),
    ("20MB", "20 MB", r#"19:44: rules[0].condition.any[0].sum.at_least: "20 MB": expected bytes such as 400, 20MB or 5MiB"#),
    ("20MB", "20mb", r#"19:44: rules[0].condition.any[0].sum.at_least: "20mb": expected bytes such as 400, 20MB or 5MiB; did you mean 20MB?"#),
    ("20MB", "0", r#"19:44: rules[0].condition.any[0].sum.at_least: "0": expected 1 to 1000TB bytes"#),
    ("at_least: 20MB", "to: attempts, at_least: 20MB", "19:34: rules[0].condition.any[0].sum.to: unknown key; expected one of of, at_least, window"),
    ("window: 24h", "window: 31d", r#"19:58: rules[0].condition.any[0].sum.window: "31d": expected a duration from 1s to 30d"#),
    ("of: delivering", "of: delivered", r#"21:28: rules[0].condition.any[1].all[0].count.of: "delivered": expected one of flows, attempts, sessions, failed, delivering; did you mean delivering?"#),
    ("of: delivering", "of: messages", r#"21:28: rules[0].condition.any[1].all[0].count.of: "messages": not a kind of flow, but it can be summed: sum: { of: messages }"#),
    ("at_least: 20 }", "atleast: 20 }", "21:40: rules[0].condition.any[1].all[0].count.atleast: unknown key; did you mean at_least?"),
    ("at_least: 20 }", "}", "21:22: rules[0].condition.any[1].all[0].count.at_least: is missing"),
    ("at_least: 20 }", "at_least: 2.5 }", r#"21:50: rules[0].condition.any[1].all[0].count.at_least: "2.5": expected a whole number from 1 to 1000000"#),
    ("to: attempts", "to: sessions", r#"22:42: rules[0].condition.any[1].all[1].ratio.to: "sessions": not a wider kind than sessions; expected one of flows, attempts"#),
    ("at_least: 0.5", "at_least: 50", r#"22:62: rules[0].condition.any[1].all[1].ratio.at_least: "50": expected a number from 0.000001 to 1"#),
    ("at_least: 0.5", "at_least: 50%", r#"22:62: rules[0].condition.any[1].all[1].ratio.at_least: "50%": expected a number from 0.000001 to 1"#),
    ("of: port, among", "of: ports, among", r#"23:31: rules[0].condition.any[1].all[2].distinct.of: "ports": expected one of source, destination, port; did you mean port?"#),
    ("kind: tumbling", "kind: hopping", r#"23:95: rules[0].condition.any[1].all[2].distinct.window.kind: "hopping": expected one of sliding, tumbling"#),
    ("horizon: 7d", "horizon: 30m", r#"24:57: rules[0].condition.any[2].first_seen.horizon: "30m": expected at least the term's window, 1h"#),
    ("        - sum: {", "        - count: { at_least: 5 }\n          sum: {", "19:11: rules[0].condition.any[0]: several conditions; put them under any: or all:, as a list"),
    ("condition:\n      any:\n", "condition:\n", "18:9: rules[0].condition: a list: expected a mapping; put the list under any: or all:"),
    ("factor: 0.5", "below: 5", r#"25:23: rules[0].resolve.below: "5": the condition has 5 terms; expected factor: 0.8, for each"#),
    ("factor: 0.5", "factor: 1", r#"25:24: rules[0].resolve.factor: "1": expected a number from 0.01 to 0.99"#),
    ("factor: 2.5", "at_least: 7", r#"27:42: rules[0].thresholds[0].at_least: "7": the condition has 5 terms; expected factor, for each"#),
    ("factor: 2.5", "factor: 5000", r#"27:40: rules[0].thresholds[0].factor: "5000": expected a number from 0.001 to 1000"#),
    (", factor: 2.5", "", "27:9: rules[0].thresholds[0]: expected factor or at_least"),
    ("group:office", "group:ofice", r#"27:16: rules[0].thresholds[0].for: "group:ofice": no internal network has this group; did you mean group:office?"#),
    (", reason: wanted", "", "29:9: rules[0].allow[0].reason: is missing"),
    ("reason: wanted", "reason: \" \"", r#"29:46: rules[0].allow[0].reason: " ": expected the reason of this entry"#),
    ("until: 2027-01-01", "until: next year", r#"29:61: rules[0].allow[0].until: "next year": expected a date (2027-01-31) or a time (2027-01-31T18:00:00Z)"#),
    ("until: 2027-01-01", "until: 2027-01-01T00:00:00", r#"29:61: rules[0].allow[0].until: "2027-01-01T00:00:00": expected a date (2027-01-31) or a time (2027-01-31T18:00:00Z); a time needs an offset, such as Z"#),
    ("destination: 192.0.2.25, ", "", "3:5: allow[0]: would suppress every alert; expected source, destination or both"),
    ("!role:mta", "!role:mts", r#"7:26: rules[0].match.source[1]: "!role:mts": expected one of workstation, "#),
    ("at_least: 10kB, below", "at_least: 3MB, below", "12:21: rules[0].match.flow.payload_up: at_least is greater than at_most, so no flow can match"),
    ("at_least: 10kB, below", "at_most: 3MB, below", r#"12:44: rules[0].match.flow.payload_up.below: "1MB": expected at_most or below, not both"#),
    ("payload_up: { at_least: 10kB", "payload: { at_least: 10kB", "12:9: rules[0].match.flow.payload: unknown key; did you mean payload_up?"),
    ("{ at_least: 1 }\n", "{}\n", "13:19: rules[0].match.flow.messages: expected at_least, at_most or below"),
    ("days: [sat, sun]", "days: [saturday]", r#"14:23: rules[0].match.hours.days[0]: "saturday": expected one of mon, tue, wed, thu, fri, sat, sun"#),
    ("to: \"06:00\"", "to: 6am", r#"14:53: rules[0].match.hours.to: "6am": expected a time of day from 00:01 to 24:00"#),
    ("\"+01:00\"", "CET", r#"14:74: rules[0].match.hours.utc_offset: "CET": expected the offset of local time from UTC, from -14:00 to +14:00, or Z"#),
    ("[source, destination]", "[source, group]", "15:15: rules[0].group_by: expected [source], [source, destination], [destination] or [group]"),
    ("[source, destination]", "source", r#"15:15: rules[0].group_by: "source": expected [source], [source, destination], [destination] or [group]"#),
    ("{ factor: 0.5, after: 1m }", "8", r#"25:14: rules[0].resolve: "8": expected a mapping such as { factor: 0.8, after: 10m }"#),
    ("{ of: delivering, at_least: 20 }", "20", r#"21:22: rules[0].condition.any[1].all[0].count: "20": expected a mapping such as { at_least: 10 }"#),
    ("{ destination: 192.0.2.25, reason: the archive }", "192.0.2.25", r#"3:5: allow[0]: "192.0.2.25": expected a mapping such as { source: 10.0.0.1, reason: our relay }"#),
    ("[source, destination]", "[host]", r#"15:16: rules[0].group_by[0]: "host": expected [source], [source, destination], [destination] or [group]"#),
];

#[test]
fn each_broken_rule_gives_one_line_with_suggestion() {
    assert!(BROKEN.len() >= 30);
    let mut wrong = Vec::new();
    for (text, instead, line) in BROKEN {
        assert_eq!(RULE.matches(text).count(), 1, "{text}");
        let found = faults(&RULE.replace(text, instead));
        if found.len() != 1 || !found[0].starts_with(&format!("f.yaml:{line}")) {
            wrong.push(format!("{instead}\nexpected {line}\nfound {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Several mistakes at once are all reported, in the order of their lines.
#[test]
fn several_mistakes_in_a_rule_are_reported_together() {
    let mut text = RULE.to_owned();
    for (good, bad) in
        [("20MB", "20mb"), ("of: port, among", "of: ports, among"), ("to: \"06:00\"", "to: 6am")]
    {
        text = text.replace(good, bad);
    }
    let places: Vec<_> =
        faults(&text).iter().map(|fault| fault.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(places, ["f.yaml:14:53", "f.yaml:19:44", "f.yaml:23:31"]);
}

#[test]
fn too_many_rules_are_refused() {
    let rules = |number: usize| {
        let rule = |n| {
            format!(
                "  - {{ name: r{n}, match: {{}}, window: {{ length: 1h }}, condition: {{ count: {{ at_least: 3 }} }} }}\n"
            )
        };
        format!("rules:\n{}", (0..number).map(rule).collect::<String>())
    };
    assert_eq!(good(&rules(256)).engine.rules.len(), 256);
    let found = faults(&rules(257));
    assert!(found.iter().any(|fault| fault.contains("257 rules: at most 256")), "{found:?}");
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn reserved_flood_alert_name_is_refused() {
    let found = faults(
        "rules:\n  - { name: spoofed-sources, match: {}, window: { length: 1h }, condition: { count: { at_least: 3 } } }\n",
    );
    assert!(found[0].contains("this name is reserved for the alert about spoofed sources"), "{found:?}");
}

#[test]
fn limits_are_bounded_and_default_to_shipped() {
    let limits = good("limits: { subjects: 5000 }\n").engine.limits;
    assert_eq!((limits.groups, limits.memory), (5_000, 512_000_000));
    assert_eq!((limits.alerts_per_minute, limits.flood_sources), (60, 1_000));
    let found = faults("limits: { subjects: 999, memory: 1kB, alerts_per_minute: 0, flood_sources: x }\n");
    assert_eq!(found.len(), 4, "{found:?}");
}
