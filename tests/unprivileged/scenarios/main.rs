//! The shipped rules on a network of a thousand hosts over five days.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

pub mod corpus;

use corpus::{Attack, Lists, judge, world};
use mailflow_test_support::lab::workspace;

#[test]
fn combined_rules_detect_attacks_and_with_lists_nothing_else() {
    let world = world(1);
    let page = workspace().join("docs/rules/reference.md");
    let page = std::fs::read_to_string(page).unwrap();
    let [none, sources, both] = Lists::ALL.map(|lists| {
        let found = judge(&world, lists);
        println!("{}\n{}", lists.name(), found.table());
        let whole = format!("{}: {:.1} % found\n{}", lists.name(), found.part() * 100.0, found.table());
        assert!(
            page.contains(&whole),
            "docs/rules/reference.md has other numbers than `cargo xtask scenarios`:\n{whole}"
        );
        found
    });
    for found in [&none, &sources, &both] {
        assert!(found.part() >= 0.95, "{}", found.part());
    }
    assert!(none.wrong() > sources.wrong() && sources.wrong() > both.wrong(), "each list says something");
    assert_eq!(both.wrong(), 0);
    // `smtp-burst` alone, and the attacks that it misses.
    for blind in [Attack::BlockedBot, Attack::OneConnection, Attack::SlowDrip] {
        assert_eq!(both.by(blind, "smtp-burst"), 0, "{blind:?}");
    }
    assert_eq!(both.by(Attack::Guessing, "smtp-auth-guess"), both.attacks[&Attack::Guessing]);
}

#[test]
fn other_seed_is_detected_without_false_positives() {
    let found = judge(&world(2), Lists::Both);
    assert!(found.part() >= 0.95 && found.wrong() == 0, "{}", found.table());
}

#[test]
fn history_follows_from_seed() {
    let [one, again, other] = [3, 3, 4].map(|seed| {
        let arrivals = world(seed).arrivals;
        arrivals.iter().map(|arrival| format!("{:?}", arrival.record.flow.key)).collect::<Vec<_>>()
    });
    assert!(one == again && one != other);
}
