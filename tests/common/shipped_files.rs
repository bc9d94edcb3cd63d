//! Shipped files and documentation.

use std::{collections::BTreeSet, fs, path::PathBuf};

use mailflow_test_support::lab::workspace;
use serde_json::Value;

/// Returns the path of a file of the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    workspace().join(name)
}

/// Returns the text of a file of the repository.
pub(crate) fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the files directly in a folder whose names end with `suffix`, sorted.
pub(crate) fn listed(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(suffix));
    found.sort();
    found
}

/// Returns the metric families in docs/integrate/metrics.md; histograms with their series too.
pub(crate) fn families() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text("docs/integrate/metrics.md").lines().filter(|line| line.starts_with("| `")) {
        let name = line.split('`').nth(1).unwrap().to_owned();
        if line.contains("| histogram |") {
            found.extend(["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")));
        }
        found.insert(name);
    }
    found
}

/// Returns the agent's metric families in a PromQL expression, and `up`.
pub(crate) fn families_in(expression: &str) -> BTreeSet<String> {
    let names = expression.split(|letter: char| !(letter.is_ascii_alphanumeric() || "_:".contains(letter)));
    let ours = |name: &&str| name.starts_with("mailflow_") || name.starts_with("process_");
    names.filter(ours).map(str::to_owned).collect()
}

/// The shipped dashboard.
pub(crate) const DASHBOARD: &str = "config/grafana/mailflow.json";

/// Returns the dashboard's panels, except row titles.
pub(crate) fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().clone();
    panels.into_iter().filter(|panel| panel["type"] != "row").collect()
}

/// Returns a panel's queries as Grafana sends them, with this rate interval in seconds and all gateways
/// selected.
pub(crate) fn queries(panel: &Value, rate_seconds: u32) -> Vec<String> {
    let targets = panel["targets"].as_array().unwrap().iter();
    let queries = targets.map(|target| target["expr"].as_str().unwrap());
    let filled = queries.map(|query| {
        query.replace("$__rate_interval", &format!("{rate_seconds}s")).replace("$instance", ".*")
    });
    filled.inspect(|query| assert!(!query.contains('$'), "{query}")).collect()
}
