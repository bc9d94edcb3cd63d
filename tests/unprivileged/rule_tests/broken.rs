//! Invalid test files: each mistake gives one line with its location and a suggestion.

use mailflow_agent::offline::ruletest::{self, file::parse};
use proptest::prelude::*;

const FILE: &str = "\
start: 2026-01-05
rules:
  - { name: r, match: {}, window: { length: 1h }, condition: { count: { at_least: 2 } } }
tests:
  - name: two
    flows:
      - { at: 1m, source: 10.0.0.1, destination: 9.9.9.9, port: 587, kind: mail, up: { payload: 2kB }, repeat: { times: 2, every: 1m } }
    until: 1h
    alerts:
      - { rule: r, source: 10.0.0.1, state: firing, at: 2m, value: 2, suppressed: false }
";

#[rustfmt::skip]
const BROKEN: &[(&str, &str, &str)] = &[
    ("start: 2026-01-05", "start: Monday", r#"1:8: start: "Monday": expected a date (2027-01-31) or a time"#),
    ("start: 2026-01-05", "start: 1970-01-01", r#"1:8: start: "1970-01-01": expected a moment between 1971-01-02 and 2099-12-31"#),
    ("start: 2026-01-05", "only: [s]", r#"1:8: only[0]: "s": no rule has this name; did you mean r?"#),
    ("start: 2026-01-05", "only: []", "1:7: only: an empty list; left out, it is every rule that is on"),
    ("start: 2026-01-05", "config: none.yaml", "2:1: rules: unknown key; expected one of config, only, start, tests"),
    ("start: 2026-01-05", "starts: 2026-01-05", "1:1: starts: unknown key; did you mean start?"),
    ("window: {", "windows: {", "3:27: rules[0].windows: unknown key; did you mean window?"),
    ("name: two", "nam: two", "5:5: tests[0].nam: unknown key; did you mean name?"),
    ("at: 1m", "at: 1", r#"7:15: tests[0].flows[0].at: "1": expected a duration such as"#),
    ("source: 10.0.0.1, d", "source: host-1, d", r#"7:27: tests[0].flows[0].source: "host-1": "#),
    ("destination: 9.9.9.9, ", "", "7:9: tests[0].flows[0].destination: is missing"),
    ("port: 587", "port: 2525", r#"7:65: tests[0].flows[0].port: "2525": this port is not in watched_ports, so there would be no record"#),
    ("kind: mail", "kind: mial", r#"7:76: tests[0].flows[0].kind: "mial": expected one of mail, bulk, rejected, login, unanswered, refused; did you mean mail?"#),
    ("payload: 2kB", "payload: 2kb", r#"7:97: tests[0].flows[0].up.payload: "2kb": expected bytes such as 400, 20MB or 5MiB; did you mean 2kB?"#),
    ("repeat: {", "repeats: {", "7:104: tests[0].flows[0].repeats: unknown key; did you mean repeat?"),
    ("times: 2", "times: 0", r#"7:121: tests[0].flows[0].repeat.times: "0": expected a whole number from 1"#),
    ("times: 2", "times: 2000000", r#"7:121: tests[0].flows[0].repeat.times: "2000000": expected a whole number from 1 to 1000000"#),
    ("until: 1h", "until: 367d", r#"8:12: tests[0].until: "367d": expected a duration from 0s to 366d"#),
    ("rule: r, source", "rule: s, source", r#"10:17: tests[0].alerts[0].rule: "s": no rule has this name; did you mean r?"#),
    ("state: firing", "state: fired", r#"10:45: tests[0].alerts[0].state: "fired": expected one of firing, resolved"#),
    ("value: 2,", "value: two,", r#"10:68: tests[0].alerts[0].value: "two": expected bytes"#),
    ("suppressed: false", "supressed: false", "10:71: tests[0].alerts[0].supressed: unknown key; did you mean suppressed?"),
    ("    alerts:\n", "    alert:\n", "9:5: tests[0].alert: unknown key; did you mean alerts?"),
];

#[test]
fn each_mistake_in_a_test_gives_one_line() {
    assert_eq!(parse("f.yaml", FILE).unwrap().tests.len(), 1);
    let mut wrong = Vec::new();
    for (text, instead, line) in BROKEN {
        assert_eq!(FILE.matches(text).count(), 1, "{text}");
        let found = parse("f.yaml", &FILE.replace(text, instead)).map(|tests| tests.tests.len());
        let found: Vec<_> = match &found {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        };
        let named = |fault: &&String| fault.starts_with(&format!("f.yaml:{line}"));
        if found.iter().find(named).is_none() || (found.len() != 1 && !instead.starts_with("config:")) {
            wrong.push(format!("{instead}\nexpected {line}\nfound {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_of_named_configuration_have_its_name() {
    let text = "config: /nonexistent/rules.yaml\ntests: []\n";
    let faults = parse("f.yaml", text).unwrap_err().to_string();
    let named =
        "f.yaml:1:9: config: \"/nonexistent/rules.yaml\": /nonexistent/rules.yaml: cannot be read: No such";
    assert!(faults.starts_with(named), "{faults}");
    let bad = std::env::temp_dir().join(format!("mailflow-named-{}.yaml", std::process::id()));
    std::fs::write(&bad, "rules: 7\n").unwrap();
    let faults = parse("f.yaml", &format!("config: {}\ntests: []\n", bad.display())).unwrap_err().to_string();
    std::fs::remove_file(&bad).unwrap();
    assert!(faults.starts_with(&format!("{}:1:8: rules: ", bad.display())), "{faults}");
}

/// Too many records for a test are refused before they are generated.
#[test]
fn oversized_test_is_refused() {
    let many =
        FILE.replace("times: 2, every: 1m", "times: 1000000, every: 1s").replace("port: 587", "duration: 1d");
    let faults = parse("f.yaml", &many).unwrap_err().to_string();
    assert_eq!(faults, "f.yaml:7:9: tests[0].flows[0]: more than 1000000 records in one test");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Removes or replaces a part of the file: the file is refused with errors, or it is a test that runs.
    #[test]
    fn modified_test_file_does_not_panic(
        at in any::<proptest::sample::Index>(),
        length in 0..40_usize,
        text in proptest::sample::select(vec!["", "0", "-1", "1e9", ": ", "[]", "{}", "~", "9.9.9.0/24", "::/0", "366d", "\n"]),
    ) {
        let at = at.index(FILE.len());
        let rest = FILE.get((at + length).min(FILE.len())..).unwrap_or_default();
        match parse("f.yaml", &format!("{}{text}{rest}", &FILE[..at])) {
            Ok(read) => read.tests.iter().for_each(|test| drop(ruletest::run(test))),
            Err(faults) => prop_assert!(faults.iter().count() > 0, "no reason"),
        }
    }
}
