//! Prints the alerts of the shipped rules on a network of a thousand hosts over five days: `cargo xtask
//! scenarios`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a defect ends the run")]

#[path = "../../unprivileged/scenarios/corpus/mod.rs"]
pub mod corpus;

use corpus::{DAYS, HOSTS, Lists, judge, world};

fn main() {
    let given = std::env::args().filter_map(|argument| argument.strip_prefix("--seed=")?.parse().ok()).next();
    let seed: u64 = given.unwrap_or(1);
    let world = world(seed);
    println!("{HOSTS} hosts, {DAYS} days, {} records, seed {seed}", world.arrivals.len());
    println!("found of each attack, and how long after its beginning (median)");
    for lists in Lists::ALL {
        let found = judge(&world, lists);
        println!("\n{}: {:.1} % found\n{}", lists.name(), found.part() * 100.0, found.table());
    }
}
