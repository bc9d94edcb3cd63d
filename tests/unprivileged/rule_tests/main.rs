//! `rules test`: the shipped rule tests pass, each expectation in them has an effect, and invalid files are
//! reported.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod broken;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mailflow_agent::{
    cli::{self, ExitStatus},
    config,
    offline::ruletest::{
        self,
        file::{ExpectedAlert, RuleTest, RuleTests},
    },
};
use mailflow_test_support::lab::workspace;

fn config_folder() -> PathBuf {
    workspace().join("config")
}

/// Returns every shipped rule test: YAML files with `test` in their path, except those of other tools.
fn shipped() -> Vec<PathBuf> {
    const OTHERS: [&str; 4] = ["ansible", "prometheus", "grafana", "clickhouse"];
    fn walk(folder: &Path, inside: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let inside = format!("{inside}/{name}");
            if path.is_dir() {
                if !OTHERS.contains(&name) {
                    walk(&path, &inside, found);
                }
            } else if inside.contains("test") && [".yaml", ".yml"].iter().any(|end| name.ends_with(end)) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&config_folder(), "", &mut found);
    found.sort();
    found
}

fn read(path: &Path) -> RuleTests {
    ruletest::file::read(path).unwrap_or_else(|faults| panic!("{faults}"))
}

/// Runs the command; returns its exit status and output.
fn run(files: &[PathBuf]) -> (ExitStatus, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = cli::rules::test(files, &mut out, &mut err).unwrap();
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn shipped_rule_tests_pass() {
    let (exit, out, err) = run(&shipped());
    assert_eq!((exit, err.as_str()), (ExitStatus::Good, ""), "{out}{err}");
    assert!(out.ends_with(" tests, 0 failed\n"), "{out}");
}

#[test]
fn every_shipped_rule_and_example_is_tested() {
    let names = |files: Vec<PathBuf>| -> BTreeSet<String> {
        files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let tested = names(shipped());
    let config = config::load(None).unwrap();
    let rules = config.engine.rules.iter().chain(&config.disabled_rules);
    let examples = fs::read_dir(config_folder().join("rules")).unwrap().map(|entry| entry.unwrap().path());
    let examples = names(examples.filter(|path| path.is_file()).collect());
    assert!(examples.len() >= 5, "{examples:?}");
    let wanted: BTreeSet<String> = rules.map(|rule| rule.name.to_string()).chain(examples).collect();
    assert_eq!(tested, wanted);
    // A rule's tests expect it to fire and not to fire.
    for file in shipped() {
        let tests = read(&file).tests;
        assert!(tests.iter().any(|test| !test.alerts.is_empty()), "{}: never speaks", file.display());
        let (file, burst) = (file.display(), tests.iter().any(|test| test.alerts.is_empty()));
        assert!(burst || tests.len() < 3 || tests.iter().all(|test| !test.alerts.is_empty()), "{file}");
    }
}

/// Returns every change of an expectation, with its test.
fn changes(test: &RuleTest) -> Vec<(&'static str, Vec<ExpectedAlert>)> {
    let Some(last) = test.alerts.last() else { return Vec::new() };
    let with = |change: &dyn Fn(&mut ExpectedAlert)| {
        let mut alerts = test.alerts.clone();
        change(alerts.last_mut().unwrap());
        alerts
    };
    let mut changes = vec![
        ("left out", test.alerts[..test.alerts.len() - 1].to_vec()),
        ("twice", [&test.alerts[..], std::slice::from_ref(last)].concat()),
        ("suppressed", with(&|alert| alert.suppressed = !alert.suppressed)),
        ("another rule", with(&|alert| alert.rule.push('x'))),
        ("another group", with(&|alert| alert.group = Some("nobody".to_owned()))),
        ("another server", with(&|alert| alert.destination = "1.2.3.4".parse().ok())),
        ("another source", with(&|alert| alert.source = "10.99.99.99/32".parse().ok())),
        ("another value", with(&|alert| alert.value = Some(123_456_789_000_000))),
    ];
    if last.at.is_some() {
        let later = |alert: &mut ExpectedAlert| alert.at = alert.at.map(|at| at + Duration::from_millis(1));
        changes.push(("a millisecond later", with(&later)));
    }
    changes
}

#[test]
fn wrong_expectation_fails() {
    let mut seen = 0;
    for file in shipped() {
        for mut test in read(&file).tests {
            let changes = changes(&test);
            let alerts = std::mem::take(&mut test.alerts);
            assert_eq!(
                ruletest::run(&test).is_success(),
                alerts.is_empty(),
                "{}: no alerts expected",
                test.name
            );
            for (what, alerts) in changes {
                test.alerts = alerts;
                assert!(!ruletest::run(&test).is_success(), "{}: {}: {what}", file.display(), test.name);
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

/// Temporary file, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mailflow-{}-{name}.yaml", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const TWO: &str = "\
only: [smtp-burst]
tests:
  - name: good
    flows: [{ source: 10.0.0.1, destination: 9.9.9.9, repeat: { times: 10, every: 1m } }]
    alerts: [{ rule: smtp-burst, at: 9m }]
  - name: bad
    flows: [{ source: 10.0.0.1, destination: 9.9.9.9, repeat: { times: 10, every: 1m } }]
    alerts:
      - { rule: smtp-burst, source: 10.0.0.2, at: 9m, value: 10 }
";

#[test]
fn failed_test_is_printed_with_difference() {
    let file = Scratch::new("two", TWO);
    let name = file.0.display();
    let (exit, out, err) = run(std::slice::from_ref(&file.0));
    assert_eq!((exit, err.as_str()), (ExitStatus::Failure, ""));
    assert_eq!(
        out,
        format!(
            "{name}\n  ok      good (1 alert)\n  FAILED  bad ({name}:6:5)\n          \
             missing     {{ rule: smtp-burst, source: 10.0.0.2, state: firing, at: 9m, value: 10 }} ({name}:9:9)\n          \
             unexpected  {{ rule: smtp-burst, source: 10.0.0.1, state: firing, at: 9m, value: 10 }}\n\
             2 tests, 1 failed\n"
        )
    );
}

#[test]
fn printed_unexpected_alert_is_valid_expectation() {
    let file = Scratch::new("paste", TWO);
    let (_, out, _) = run(std::slice::from_ref(&file.0));
    let shown = out.lines().find_map(|line| line.trim().strip_prefix("unexpected  ")).unwrap();
    let repaired = TWO.replace("{ rule: smtp-burst, source: 10.0.0.2, at: 9m, value: 10 }", shown);
    let file = Scratch::new("pasted", &repaired);
    assert_eq!(run(std::slice::from_ref(&file.0)).0, ExitStatus::Good);
}

#[test]
fn invalid_file_exits_2_and_others_run() {
    let good = Scratch::new("good", TWO);
    let bad = Scratch::new("faulty", "tests: [{ name: x, flows: [{ source: 10.0.0.1 }], alerts: [] }]\n");
    let (exit, out, err) = run(&[bad.0.clone(), good.0.clone()]);
    assert_eq!(exit, ExitStatus::Usage);
    assert_eq!(err, format!("{}:1:28: tests[0].flows[0].destination: is missing\n", bad.0.display()));
    assert!(out.ends_with("2 tests, 1 failed, 1 file not run\n"), "{out}");
    let (exit, _, err) = run(&["/nonexistent/tests.yaml".into()]);
    assert_eq!(exit, ExitStatus::Usage);
    assert!(err.starts_with("/nonexistent/tests.yaml: cannot be read: No such file"), "{err}");
}

/// Returns the contents of the first fenced block of docs/rules/reference.md with this info string. Further blocks of
/// rule tests have a file name in theirs.
fn example(info: &str) -> String {
    let text = fs::read_to_string(config_folder().join("../docs/rules/reference.md")).unwrap();
    let start = text.find(&format!("```{info}\n")).unwrap() + info.len() + 4;
    text[start..start + text[start..].find("```").unwrap()].to_owned()
}

#[test]
fn documented_rule_tests_pass() {
    let config =
        config::parse("example.yaml", &example("yaml rules")).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.engine.rules.len(), 1);
    // The example has one rule, which replaces the shipped ones.
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.iter().all(|warning| warning.contains("replaces the shipped")), "{warnings:?}");
    let file = Scratch::new("three", &example("yaml rule test"));
    let (exit, out, err) = run(std::slice::from_ref(&file.0));
    assert_eq!((exit, err.as_str()), (ExitStatus::Good, ""));
    let shown = example("console").replace("three.yaml\n", &format!("{}\n", file.0.display()));
    let documented = shown.split_once('\n').unwrap().1;
    assert_eq!(
        documented, out,
        "docs/rules/reference.md: the first `console` block is not the output of the first `yaml rule test`"
    );
}

/// A rule with another meaning fails its tests.
#[test]
fn changed_rule_fails_its_tests() {
    for (file, text, instead) in [
        ("group-threshold", "at_least: 3", "at_least: 4"),
        ("weekend", "+01:00", "+00:00"),
        ("new-port", "sessions_only: true", "sessions_only: false"),
        ("hourly-volume", "at_least: 5MB", "at_least: 6001kB"),
        ("own-relay", "role:mta\", reason", "role:server\", reason"),
    ] {
        let rules = fs::read_to_string(config_folder().join(format!("rules/{file}.yaml"))).unwrap();
        assert_eq!(rules.matches(text).count(), 1, "{file}: {text}");
        let rules = Scratch::new(&format!("rules-{file}"), &rules.replace(text, instead));
        let tests = fs::read_to_string(config_folder().join(format!("rules/tests/{file}.yaml"))).unwrap();
        let named = tests.replace(&format!("../{file}.yaml"), rules.0.to_str().unwrap());
        let tests = Scratch::new(&format!("tests-{file}"), &named);
        let (exit, out, err) = run(std::slice::from_ref(&tests.0));
        assert_eq!(exit, ExitStatus::Failure, "{file}\n{out}{err}");
    }
}
