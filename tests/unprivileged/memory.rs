//! Memory of an open flow, and of a source under a rule: bytes counted by the allocator, not times.
//!
//! These tests have their own binary, as the allocator counts for the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::sync::{Mutex, PoisonError};

#[path = "../system/benches/engine/flows.rs"]
#[allow(dead_code, reason = "the benchmark uses more of it")]
mod flows;
#[path = "../system/benches/engine/memory.rs"]
mod memory;
#[path = "../system/benches/engine/subject.rs"]
#[allow(dead_code, reason = "as above")]
mod subject;

#[path = "../system/benches/engine/sources.rs"]
#[allow(dead_code, reason = "as above")]
mod sources;

use flows::Kind;
use sources::Sources;
use subject::Subject;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Maximum bytes per open flow.
const MOST: f64 = 64.0;
/// Maximum bytes per source, by rule.
const MOST_OF_A_SOURCE: [(&str, f64); 2] = [("smtp-burst", 200.0), ("smtp-bulk", 2_000.0)];

/// Serialises the tests: the allocator counts for all of them.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn open_flow_uses_at_most_64_bytes_and_memory_is_freed() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut subject = Subject::new().unwrap();
    let begin = memory::allocated();
    let (mut second, mut count) = (1, 100_000);
    while count < 500_000 {
        memory::reset_peak();
        subject.read(second, count, |n| flows::flow(n, Kind::Small, second));
        let packets = u64::from(count) * (10 + second);
        assert_eq!(subject.packets(), (packets, packets), "{count} flows, each booked once");
        for (which, bytes) in [("held", memory::allocated()), ("at most", memory::peak())] {
            let share = (bytes - begin) as f64 / f64::from(count);
            assert!(share <= MOST, "{which} with {count} flows: {share:.1} B");
            assert!(share >= 40.0, "{which} with {count} flows: {share:.1} B, which is less than they need");
        }
        (second, count) = (second + 1, count + count / 4);
    }
    // Nine tenths of the flows are not seen any more, and dropped after a number of polls.
    let (left, last) = (count / 10, second - 1);
    let before = subject.packets().0;
    for _ in 0..25 {
        second += 1;
        subject.read(second, left, |n| flows::flow(n, Kind::Small, second));
    }
    let gained = u64::from(left) * (second - last);
    let packets = before + gained;
    assert_eq!(subject.packets(), (packets, packets), "those that are left, and nothing twice");
    let share = (memory::allocated() - begin) as f64 / f64::from(left);
    assert!(share <= MOST, "held with {left} flows left: {share:.1} B");
}

/// Measures sources with one flow within the hour, as most have, and with flows just below the threshold.
#[test]
fn source_memory_is_within_limit_of_each_rule() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for (rule, bar) in MOST_OF_A_SOURCE {
        for each in [1, 9] {
            let mut sources = Sources::new(&[rule]).unwrap();
            // Stored records are limited, for all sources together.
            sources.fill_what_is_bounded();
            let begin = memory::allocated();
            let (mut from, mut count) = (0, 60_000);
            while count < 130_000 {
                for round in 0..each {
                    (from..count).for_each(|source| drop(sources.flow(source, round)));
                }
                assert_eq!(sources.subjects(), u64::from(count) + 1, "{rule}, {each} flows each");
                let share = (memory::allocated() - begin) as f64 / f64::from(count);
                assert!(share <= bar, "{rule}, {count} sources of {each} flows: {share:.1} B each");
                assert!(share >= 48.0, "{rule}: {share:.1} B, which is less than they need");
                println!("{rule}, {count} sources of {each} flows: {share:.1} B each");
                (from, count) = (count, count + count / 10);
            }
            sources.pass(sources::MEMORY);
            assert_eq!(sources.subjects(), 0, "{rule}: all are forgotten");
            let share = (memory::allocated().saturating_sub(begin)) as f64 / f64::from(from);
            assert!(share <= 2.0, "{rule}: {share:.1} B of a source that is forgotten");
        }
    }
}
