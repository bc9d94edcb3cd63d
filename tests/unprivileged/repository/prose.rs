//! Comments are plain technical English: see CONTRIBUTING.md, "Words".

use std::fs;

use mailflow_test_support::{
    lab::{repository_files, workspace},
    words::{NO_WORDS, has},
};

/// Crates whose comments are checked.
const CRATES: [&str; 7] = [
    "mailflow-common/src",
    "mailflow-ebpf/src",
    "mailflow-agent/engine",
    "mailflow-agent/kernel",
    "mailflow-agent/src",
    "tests",
    "xtask/src",
];

/// Words with which no doc comment begins: it would be a question, or depend on its neighbour.
const NO_BEGINNINGS: [&str; 14] = [
    "What",
    "Whether",
    "Who",
    "Whose",
    "Whom",
    "Where",
    "When",
    "How",
    "Which",
    "That",
    "The same",
    "As above",
    "The other",
    "Itself",
];

/// Returns the comment of a line, and true if it is a doc comment.
fn comment(line: &str) -> Option<(&str, bool)> {
    let line = line.trim_start();
    let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
    doc.map(|text| (text.trim(), true)).or_else(|| line.strip_prefix("//").map(|text| (text.trim(), false)))
}

/// Returns the faults of a file, a line each.
fn faults(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut continues = false;
    for (number, line) in (1..).zip(text.lines()) {
        let Some((comment, doc)) = comment(line) else {
            continues = false;
            continue;
        };
        let begins =
            |word: &&&str| comment.strip_prefix(**word).is_some_and(|rest| rest.starts_with([' ', ',']));
        if doc
            && !continues
            && let Some(word) = NO_BEGINNINGS.iter().find(begins)
        {
            found.push(format!("{name}:{number}: begins with {word:?}: {comment}"));
        }
        for word in NO_WORDS.iter().filter(|word| has(comment, word)) {
            found.push(format!("{name}:{number}: {word:?}: {comment}"));
        }
        continues = doc && !comment.is_empty();
    }
    found
}

#[test]
fn comments_have_only_plain_words() {
    let mut files = repository_files(&CRATES).unwrap();
    files.retain(|name| name.ends_with(".rs"));
    assert!(files.len() > 100, "{} files", files.len());
    let found: Vec<String> = files
        .iter()
        .flat_map(|name| faults(name, &fs::read_to_string(workspace().join(name)).unwrap()))
        .collect();
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

#[test]
fn faults_are_found_by_line_and_word() {
    let text =
        "/// Whether it is.\n/// Where the sentence goes on.\nfn a() {}\n// told of amidst\n/// The flow.\n";
    assert_eq!(
        faults("a.rs", text),
        ["a.rs:1: begins with \"Whether\": Whether it is.", "a.rs:4: \"told\": told of amidst"]
    );
}
