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

/// Extensions of the configuration files whose comments are checked, with the marks of a comment line.
const CONFIG_COMMENTS: [(&str, &str); 7] = [
    ("yaml", "#"),
    ("yml", "#"),
    ("j2", "#"),
    ("service", "#"),
    ("sysusers", "#"),
    ("tmpfiles", "#"),
    ("sql", "--"),
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
    assert!(
        found.is_empty(),
        "{} faults by the lists of words in prose.rs and CONTRIBUTING.md, Words:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// Returns the faults of the comments of a configuration file, a line each. Its comments are texts for users, so each
/// block of them is checked as a doc comment.
fn config_faults(name: &str, mark: &str, text: &str) -> Vec<String> {
    let comments = text.lines().map(|line| match line.trim_start().strip_prefix(mark) {
        Some(comment) => format!("///{comment}\n"),
        None => "\n".to_owned(),
    });
    faults(name, &comments.collect::<String>())
}

#[test]
fn comments_of_configuration_files_have_only_plain_words() {
    let mut checked = 0;
    let mut found = Vec::new();
    for name in repository_files(&["config"]).unwrap() {
        let extension = name.rsplit('.').next().unwrap_or_default();
        let Some((_, mark)) = CONFIG_COMMENTS.iter().find(|(known, _)| *known == extension) else { continue };
        let text = fs::read_to_string(workspace().join(&name)).unwrap();
        found.extend(config_faults(&name, mark, &text));
        checked += 1;
    }
    assert!(checked > 20, "{checked} files");
    assert!(
        found.is_empty(),
        "{} faults by the lists of words in prose.rs and CONTRIBUTING.md, Words:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn faults_are_found_by_line_and_word() {
    let text =
        "/// Whether it is.\n/// Where the sentence goes on.\nfn a() {}\n// told of amidst\n/// The flow.\n";
    assert_eq!(
        faults("a.rs", text),
        ["a.rs:1: begins with \"Whether\": Whether it is.", "a.rs:4: \"told\": told of amidst"]
    );
    assert_eq!(
        config_faults("a.sql", "--", "-- Who it is.\nSELECT 1;\n-- A row.\n"),
        ["a.sql:1: begins with \"Who\": Who it is."]
    );
}
