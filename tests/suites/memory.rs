//! What a living flow takes: a size, counted by the allocator, not a time.
//!
//! A binary of its own, as its allocator counts for the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "../benches/engine/flows.rs"]
#[allow(dead_code, reason = "the benchmark uses more of it")]
mod flows;
#[path = "../benches/engine/memory.rs"]
mod memory;
#[path = "../benches/engine/subject.rs"]
#[allow(dead_code, reason = "as above")]
mod subject;

use flows::Kind;
use subject::Subject;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// SPEC 10.
const MOST: f64 = 64.0;

#[test]
fn a_living_flow_takes_at_most_64_bytes_at_every_size_and_the_memory_comes_back() {
    let mut subject = Subject::new().unwrap();
    let begin = memory::held();
    let (mut second, mut count) = (1, 100_000);
    while count < 500_000 {
        memory::forget_most();
        subject.read(second, count, |n| flows::flow(n, Kind::Small, second));
        let packets = u64::from(count) * (10 + second);
        assert_eq!(subject.packets(), (packets, packets), "{count} flows, each booked once");
        for (which, bytes) in [("held", memory::held()), ("at most", memory::most())] {
            let share = (bytes - begin) as f64 / f64::from(count);
            assert!(share <= MOST, "{which} with {count} flows: {share:.1} B");
            assert!(share >= 40.0, "{which} with {count} flows: {share:.1} B, which is less than they need");
        }
        (second, count) = (second + 1, count + count / 4);
    }
    // Nine tenths are no more to be seen, and forgotten after a while.
    let (left, last) = (count / 10, second - 1);
    let before = subject.packets().0;
    for _ in 0..25 {
        second += 1;
        subject.read(second, left, |n| flows::flow(n, Kind::Small, second));
    }
    let gained = u64::from(left) * (second - last);
    let packets = before + gained;
    assert_eq!(subject.packets(), (packets, packets), "those that are left, and nothing twice");
    let share = (memory::held() - begin) as f64 / f64::from(left);
    assert!(share <= MOST, "held with {left} flows left: {share:.1} B");
}
