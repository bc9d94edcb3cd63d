//! Recording and alerting rules, checked with promtool.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use mailflow_test_support::lab::{With, output, unpack};
use serde_yaml::Value;

use crate::files::{families, families_in, listed, text};

const RULES: &str = "config/prometheus";
const TESTS: &str = "config/prometheus/test";

fn promtool() -> Command {
    let tool = match std::env::var_os("PROMTOOL") {
        Some(tool) => PathBuf::from(tool),
        None => unpack("prometheus", With::Nothing).unwrap().root.join("usr/bin/promtool"),
    };
    Command::new(tool)
}

fn yaml(file: &Path) -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn each<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_sequence).into_iter().flatten()
}

/// Returns every rule of every shipped file.
fn rules() -> Vec<Value> {
    let files = listed(RULES, ".rules.yml");
    assert_eq!(files.len(), 2, "{files:?}");
    let mut found = Vec::new();
    for file in files {
        found.extend(each(&yaml(&file), "groups").flat_map(|group| each(group, "rules")).cloned());
    }
    found
}

fn name<'a>(rule: &'a Value, key: &str) -> Option<&'a str> {
    rule.get(key).and_then(Value::as_str)
}

#[test]
fn promtool_accepts_rules_and_tests_pass() {
    let report = output(promtool().args(["check", "rules"]).args(listed(RULES, ".rules.yml"))).unwrap();
    assert!(!report.to_lowercase().contains("warn"), "{report}");
    let tests = listed(TESTS, ".yml");
    assert_eq!(tests.len(), 2, "{tests:?}");
    output(promtool().args(["test", "rules"]).args(tests)).unwrap();
}

#[test]
fn every_alert_has_firing_and_silent_tests() {
    let mut fires = BTreeSet::new();
    let mut silent = BTreeSet::new();
    for file in listed(TESTS, ".yml") {
        for case in each(&yaml(&file), "tests").flat_map(|test| each(test, "alert_rule_test")) {
            let alert = name(case, "alertname").unwrap().to_owned();
            let set = if each(case, "exp_alerts").next().is_some() { &mut fires } else { &mut silent };
            set.insert(alert);
        }
    }
    let shipped: BTreeSet<_> =
        rules().iter().filter_map(|rule| name(rule, "alert")).map(str::to_owned).collect();
    assert!(shipped.len() > 20, "{shipped:?}");
    assert_eq!(fires, shipped);
    assert_eq!(silent, shipped);
}

#[test]
fn rules_use_only_exported_or_recorded_series() {
    let (rules, known) = (rules(), families());
    for rule in &rules {
        let expression = name(rule, "expr").unwrap();
        for family in families_in(expression) {
            let recorded = |rule: &Value| name(rule, "record") == Some(&family);
            // A recorded name begins with its aggregation level: `fleet:mailflow_...`.
            assert!(known.contains(&family) || rules.iter().any(recorded), "{family} in {expression}");
        }
    }
}

#[test]
fn every_alert_has_description_and_documented_action() {
    let page = text("docs/operate/alerts.md");
    let rows: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `Mailflow")?.split_once('`'))
        .map(|(alert, rest)| (format!("Mailflow{alert}"), rest.split(" | ").nth(1).unwrap_or("").to_owned()))
        .collect();
    let shipped: BTreeSet<_> = rules()
        .iter()
        .filter_map(|rule| Some((name(rule, "alert")?.to_owned(), rule)))
        .map(|(alert, rule)| {
            for part in ["summary", "description"] {
                assert!(rule["annotations"][part].as_str().is_some_and(|text| text.len() > 10), "{alert}");
            }
            (alert, rule["labels"]["severity"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(rows, shipped);
}
