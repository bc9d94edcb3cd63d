//! Shipped files, and the documentation that they are held against.

use std::{collections::BTreeSet, fs, path::PathBuf};

use mailflow_tests::lab::workspace;

/// A file of the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    workspace().join(name)
}

/// Its text.
pub(crate) fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Files directly below a folder whose names end with `suffix`, sorted.
pub(crate) fn listed(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(suffix));
    found.sort();
    found
}

/// The families that docs/integrate/metrics.md lists; a histogram also by its series.
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

/// Names of the agent's families in a PromQL expression, and `up`.
pub(crate) fn families_in(expression: &str) -> BTreeSet<String> {
    let names = expression.split(|letter: char| !(letter.is_ascii_alphanumeric() || "_:".contains(letter)));
    let ours = |name: &&str| name.starts_with("mailflow_") || name.starts_with("process_");
    names.filter(ours).map(str::to_owned).collect()
}
