//! Configurations: all errors at once with their locations, the shipped files, and no panic on any text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod diagnostics;
mod examples;
mod lists;
mod networks;
mod rules;
mod services;
mod values;

use mailflow_agent::config::{self, Config, DEFAULT};
use proptest::prelude::*;

/// Returns the errors of an invalid text.
fn faults(text: &str) -> Vec<String> {
    let faults = config::parse("f.yaml", text).expect_err(text);
    let lines: Vec<_> = faults.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), faults.iter().count(), "one line each");
    lines
}

/// Returns the configuration of a valid text.
fn good(text: &str) -> Config {
    config::parse("f.yaml", text).unwrap_or_else(|faults| panic!("{faults}\nin {text}"))
}

/// Returns the warnings, except those about shipped rules that the file's rule list replaces.
fn warnings_but_of_replaced_rules(config: &Config) -> Vec<String> {
    let warnings = config.warnings.iter().map(ToString::to_string);
    warnings
        .filter(|warning| !warning.contains("replaces the shipped") && !warning.contains("no rule uses"))
        .collect()
}

/// Generates scalars, indicators and keys of a YAML file, valid and invalid.
fn pieces() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "\n",
        "\n  ",
        "\n    ",
        "\n  - ",
        "- ",
        ": ",
        ", ",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "|\n",
        ">\n",
        "#",
        "!",
        "!!int ",
        "&a ",
        "*a",
        "<<: ",
        "? ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "\t",
        "\0",
        "\r\n",
        "\u{feff}",
        "\u{85}",
        "ö",
        "~",
        "interfaces",
        "rules",
        "name",
        "match",
        "ports",
        "window",
        "length",
        "condition",
        "count",
        "at_least",
        "any",
        "allow",
        "until",
        "2027-01-01",
        "20MB",
        "watched_ports",
        "smtp",
        "internal_networks",
        "networks",
        "outputs",
        "metrics",
        "listen",
        "off",
        "true",
        "1h",
        "25",
        "-1",
        "1e400",
        "0x",
        "10.0.0.0/8",
        "::/0",
    ];
    let piece = prop_oneof![
        8 => proptest::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parse_of_any_text_does_not_panic(text in pieces()) {
        if let Err(faults) = config::parse("f.yaml", &text) {
            prop_assert!(faults.iter().count() > 0, "no reason");
            prop_assert_eq!(faults.to_string().lines().count(), faults.iter().count());
        }
    }

    /// Replaces a part of the shipped file: this reaches deeper code than random text.
    #[test]
    fn parse_of_modified_shipped_file_does_not_panic(
        at in any::<proptest::sample::Index>(),
        length in 0..200_usize,
        text in pieces(),
    ) {
        let shipped: Vec<char> = DEFAULT.chars().collect();
        let at = at.index(shipped.len());
        let rest = shipped.iter().skip(at + length);
        let changed: String = shipped.iter().take(at).copied().chain(text.chars()).chain(rest.copied()).collect();
        if let Err(faults) = config::parse("f.yaml", &changed) {
            prop_assert!(faults.iter().count() > 0, "no reason");
            // A lone carriage return ends a line in YAML.
            let lines = 1 + changed.matches(['\n', '\r']).count();
            for fault in faults.iter() {
                let position = fault.location.position;
                prop_assert!(position.is_some_and(|place| (1..=lines).contains(&place.line) && place.column > 0));
            }
        }
    }
}
