//! The shipped rules on a network of a thousand hosts over five days.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "../src/scenarios.rs"]
pub mod scenarios;

use scenarios::{Attack, Lists, judge, world};

#[test]
fn the_rules_together_find_what_each_alone_does_not_and_with_lists_nothing_else() {
    let world = world(1);
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules/reference.md");
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
    // The owner's rule alone, and what it cannot see.
    for blind in [Attack::BlockedBot, Attack::OneConnection, Attack::SlowDrip] {
        assert_eq!(both.by(blind, "smtp-burst"), 0, "{blind:?}");
    }
    assert_eq!(both.by(Attack::Guessing, "smtp-auth-guess"), both.attacks[&Attack::Guessing]);
}

#[test]
fn another_history_has_the_same_verdict() {
    let found = judge(&world(2), Lists::Both);
    assert!(found.part() >= 0.95 && found.wrong() == 0, "{}", found.table());
}

#[test]
fn a_history_follows_from_its_seed() {
    let [one, again, other] = [3, 3, 4].map(|seed| {
        let arrivals = world(seed).arrivals;
        arrivals.iter().map(|arrival| format!("{:?}", arrival.record.flow.key)).collect::<Vec<_>>()
    });
    assert!(one == again && one != other);
}
