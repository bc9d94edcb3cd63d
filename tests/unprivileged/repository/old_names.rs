//! Names of interfaces that were renamed, in files of the repository.

use std::fs;

use mailflow_test_support::{
    lab::{repository_files, workspace},
    words::has_name,
};

/// Returns the old names of the table in CHANGELOG.md.
fn old_names() -> Vec<String> {
    let text = fs::read_to_string(workspace().join("CHANGELOG.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| old name")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).expect("a row begins with a name in backticks").to_owned()).collect()
}

#[test]
fn old_interface_names_are_in_no_file() {
    let old = old_names();
    assert!(old.len() > 30, "{} names", old.len());
    let files = repository_files(&["."]).unwrap();
    assert!(files.len() > 500, "{} files", files.len());
    let mut found = Vec::new();
    for file in files.iter().filter(|file| *file != "CHANGELOG.md") {
        // Captures and the BPF object are no text.
        let Ok(text) = fs::read_to_string(workspace().join(file)) else { continue };
        for name in old.iter().filter(|name| has_name(&text, name)) {
            found.push(format!("{file}: {name}"));
        }
    }
    assert!(found.is_empty(), "{} old names:\n{}", found.len(), found.join("\n"));
}
