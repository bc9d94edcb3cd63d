//! Configurations: every fault at once with its place, the shipped files, and no panic on any text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "config/examples.rs"]
mod examples;
#[path = "config/faults.rs"]
mod faults;
#[path = "config/lists.rs"]
mod lists;
#[path = "config/networks.rs"]
mod networks;
#[path = "config/rules.rs"]
mod rules;
#[path = "config/services.rs"]
mod services;
#[path = "config/values.rs"]
mod values;

use mailflow_agent::config::{self, Config, DEFAULT};
use proptest::prelude::*;

/// The faults of a text that has some.
fn faults(text: &str) -> Vec<String> {
    let faults = config::parse("f.yaml", text).expect_err(text);
    let lines: Vec<_> = faults.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), faults.iter().count(), "one line each");
    lines
}

/// The configuration of a text that is good.
fn good(text: &str) -> Config {
    config::parse("f.yaml", text).unwrap_or_else(|faults| panic!("{faults}\nin {text}"))
}

/// Warnings but for those about what a rule list of the file's own leaves out.
fn warnings_but_of_replaced_rules(config: &Config) -> Vec<String> {
    let told = config.warnings.iter().map(ToString::to_string);
    told.filter(|told| !told.contains("replaces the shipped") && !told.contains("no rule uses")).collect()
}

/// Scalars, indicators and keys that a YAML file of ours may hold, and some that it may not.
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
    fn no_text_makes_it_panic(text in pieces()) {
        if let Err(faults) = config::parse("f.yaml", &text) {
            prop_assert!(faults.iter().count() > 0, "no reason");
            prop_assert_eq!(faults.to_string().lines().count(), faults.iter().count());
        }
    }

    /// The shipped file with a part replaced: deeper than free text gets.
    #[test]
    fn no_change_of_the_shipped_file_makes_it_panic(
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
