//! The rooms of the house: who may know whom. ARCHITECTURE.md says why.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Rust files below a folder of the workspace, or the file itself.
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

/// A file's code without comments and without its tests, which may know more.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Where any of `words` occurs below `place`.
fn mentions(place: &str, words: &[&str]) -> Vec<String> {
    let files = sources(place);
    assert!(!files.is_empty(), "{place} is empty");
    let mut found = Vec::new();
    for (name, text) in files {
        let code = code(&text);
        for word in words.iter().filter(|word| code.contains(**word)) {
            found.push(format!("{name} mentions {word}"));
        }
    }
    found
}

const NOTHING: Vec<String> = Vec::new();

#[test]
fn the_engine_knows_no_clock_no_io_no_kernel_and_no_sink() {
    let words = [
        "aya",
        "SystemTime",
        "Instant",
        "clock::",
        "std::fs",
        "std::io",
        "std::net::Tcp",
        "std::thread",
        "tokio",
        "crate::kernel",
        "crate::outputs",
        "crate::config",
        "crate::http",
        "crate::agent",
        "crate::flowlog",
        "tracing",
    ];
    assert_eq!(mentions("mailflow-agent/engine/src", &words), NOTHING);
}

/// The agent's rooms that are held to what all but a few of them keep to.
const ROOMS: [&str; 13] = [
    "agent", "cli", "config", "control", "doctor", "http", "metrics", "offline", "outputs", "recovery",
    "status", "util", "main.rs",
];

#[test]
fn only_the_kernel_seam_knows_aya() {
    for room in ROOMS {
        assert_eq!(mentions(&format!("mailflow-agent/src/{room}"), &["aya::"]), NOTHING);
    }
}

#[test]
fn the_kernel_seam_knows_no_rule_and_no_sink() {
    let words =
        ["crate::outputs", "crate::http", "crate::agent", "engine::rule", "engine::settings", "Engine"];
    assert_eq!(mentions("mailflow-agent/kernel/src", &words), NOTHING);
}

#[test]
fn sinks_do_not_call_back() {
    let words = ["engine::Engine", "crate::kernel", "crate::agent", "aya"];
    assert_eq!(mentions("mailflow-agent/src/outputs", &words), NOTHING);
    assert_eq!(
        mentions("mailflow-agent/src/http", &["crate::engine", "crate::kernel", "crate::agent"]),
        NOTHING
    );
}

#[test]
fn the_control_socket_only_carries_words() {
    let words = ["crate::engine", "crate::kernel", "crate::agent", "crate::outputs", "crate::config"];
    assert_eq!(mentions("mailflow-agent/src/control", &words), NOTHING);
}

#[test]
fn what_outlives_the_agent_is_not_decided_where_it_is_kept() {
    let words =
        ["engine::Engine", "engine::rule", "crate::outputs", "crate::agent", "crate::config", "aya::"];
    assert_eq!(mentions("mailflow-agent/src/recovery/store", &words), NOTHING);
}

#[test]
fn flow_logs_know_no_rule_and_no_sink() {
    let words = [
        "engine::Engine",
        "engine::rule",
        "settings::Rule",
        "crate::outputs",
        "crate::agent",
        "crate::kernel",
    ];
    assert_eq!(mentions("mailflow-agent/src/offline/flowlog", &words), NOTHING);
}

#[test]
fn only_the_clock_reads_clocks() {
    let words = ["SystemTime::now", "Instant::now", "clock_gettime"];
    for room in ROOMS {
        assert_eq!(mentions(&format!("mailflow-agent/src/{room}"), &words), NOTHING);
    }
}

#[test]
fn unsafe_code_stays_at_the_kernel() {
    for room in ROOMS {
        assert_eq!(mentions(&format!("mailflow-agent/src/{room}"), &["unsafe "]), NOTHING);
    }
}

#[test]
fn the_parser_calls_no_helper() {
    for file in ["frame.rs", "l2.rs", "l3.rs", "l4.rs", "segment.rs", "lib.rs"] {
        assert_eq!(mentions(&format!("mailflow-ebpf/src/{file}"), &["aya", "asm!", "unsafe "]), NOTHING);
    }
}

#[test]
fn whoever_starts_an_agent_gives_it_a_place_of_its_own() {
    // Lines that are only read as arguments start nothing.
    let starts = |line: &str| line.contains("\"run\"") || line.contains("\"run --");
    let homeless = |(name, text): &(String, String)| {
        let all_named = ["--state", "--pins", "--control"].iter().all(|option| text.contains(option));
        code(text).lines().any(starts) && !all_named && name != "tests/suites/readme.rs"
    };
    let started = sources("tests").into_iter().filter(|(name, _)| name != "tests/suites/rooms.rs");
    let found: Vec<String> = started.filter(homeless).map(|(name, _)| name).collect();
    assert_eq!(found, NOTHING, "an agent of theirs writes to /var/lib/mailflow or /run/mailflow");
}

#[test]
fn files_are_rooms_not_halls() {
    let places = ["mailflow-common/src", "mailflow-ebpf/src", "mailflow-agent/src", "tests", "xtask/src"];
    let long: Vec<String> = places
        .iter()
        .flat_map(|place| sources(place))
        .filter(|(_, text)| text.lines().count() > 600)
        .map(|(name, text)| format!("{name}: {} lines", text.lines().count()))
        .collect();
    assert_eq!(long, NOTHING);
}
