//! Mistakes in the shipped example rules: each key, mistyped.

use std::{fs, path::Path};

use mailflow_agent::config;
use mailflow_test_support::lab::workspace;

/// Returns the shipped examples, by name.
fn examples() -> Vec<(String, String)> {
    let folder = workspace().join("config/rules");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// Returns the keys of a file: offset and length.
fn keys(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    for line in text.lines() {
        let code = line.split(" #").next().unwrap_or_default();
        let code = if code.trim_start().starts_with('#') { "" } else { code };
        for (colon, _) in code.match_indices(": ") {
            found.push((at, code, colon));
        }
        if code.ends_with(':') {
            found.push((at, code, code.len() - 1));
        }
        at += line.len() + 1;
    }
    let key = |(at, code, colon): (usize, &str, usize)| {
        let begin = code[..colon].rfind(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
        let begin = begin.map_or(0, |before| before + 1);
        (begin < colon).then_some((at + begin, colon - begin))
    };
    found.into_iter().filter_map(key).collect()
}

#[test]
fn mistyped_keys_are_reported_with_location_and_suggestion() {
    let (mut variants, mut wrong) = (0, Vec::new());
    for (name, text) in examples() {
        assert!(config::parse(&name, &text).is_ok(), "{name}");
        for (at, length) in keys(&text) {
            let key = &text[at..at + length];
            let bad = format!("{}{key}z{}", &text[..at], &text[at + length..]);
            let before = &text[..at];
            let (line, column) = (
                before.matches('\n').count() + 1,
                before.chars().rev().take_while(|c| *c != '\n').count() + 1,
            );
            let place = format!("{name}:{line}:{column}: ");
            let faults: Vec<String> = match config::parse(&name, &bad) {
                Ok(_) => Vec::new(),
                Err(faults) => faults.iter().map(ToString::to_string).collect(),
            };
            let named = |fault: &String| {
                fault.starts_with(&place)
                    && fault.contains(&format!("{key}z: unknown key"))
                    && (fault.ends_with(&format!("did you mean {key}?"))
                        || fault.contains("expected one of "))
            };
            variants += 1;
            if !faults.iter().any(named) {
                wrong.push(format!("{place}{key}z\nfound {faults:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{variants} variants");
    assert!(variants >= 30, "{variants} variants");
}
