//! Agents of tests do not touch an installed one.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Returns the Rust files below a folder of the workspace, with their text.
fn sources(place: &str) -> Vec<(String, String)> {
    let path = workspace().join(place);
    if path.is_file() {
        return vec![(place.to_owned(), fs::read_to_string(path).unwrap())];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&path).unwrap_or_else(|error| panic!("{place}: {error}")) {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if path.join(&name).is_dir() || name.ends_with(".rs") {
            found.extend(sources(&format!("{place}/{name}")));
        }
    }
    found
}

/// Returns a file's code without comments and unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn tests_isolate_state_pins_and_socket_of_agents() {
    // Lines that only parse arguments start no agent.
    let starts = |line: &str| line.contains("\"run\"") || line.contains("\"run --");
    let homeless = |(_, text): &(String, String)| {
        let all_named = ["--state", "--pins", "--control"].iter().all(|option| text.contains(option));
        code(text).lines().any(starts) && !all_named
    };
    // The suite `repository` parses command lines of documents, and starts no agent.
    let started =
        sources("tests").into_iter().filter(|(name, _)| !name.starts_with("tests/unprivileged/repository/"));
    let found: Vec<String> = started.filter(homeless).map(|(name, _)| name).collect();
    assert_eq!(
        found,
        Vec::<String>::new(),
        "an agent of theirs writes to /var/lib/mailflow or /run/mailflow"
    );
}
