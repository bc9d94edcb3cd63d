//! Agents of tests do not touch an installed one.

use std::fs;

use mailflow_test_support::lab::{repository_files, workspace};

/// Returns a file's code without comments and unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn tests_isolate_state_pins_and_socket_of_agents() {
    // Lines that only parse arguments start no agent.
    let starts = |line: &str| line.contains("\"run\"") || line.contains("\"run --");
    let homeless = |name: &String| {
        let text = fs::read_to_string(workspace().join(name)).unwrap();
        let all_named = ["--state", "--pins", "--control"].iter().all(|option| text.contains(option));
        code(&text).lines().any(starts) && !all_named
    };
    let mut files = repository_files(&["tests"]).unwrap();
    // The suite `repository` parses command lines of documents, and starts no agent.
    files.retain(|name| name.ends_with(".rs") && !name.starts_with("tests/unprivileged/repository/"));
    let found: Vec<String> = files.into_iter().filter(homeless).collect();
    assert_eq!(
        found,
        Vec::<String>::new(),
        "an agent of theirs writes to /var/lib/mailflow or /run/mailflow"
    );
}
