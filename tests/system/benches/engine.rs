//! Cost of the agent between the kernel's flow table and the sinks. Prints a line of JSON for each case.
//!
//! The flows are made before the measurement, 4,096 at a time, as the kernel crate passes them. Time is this
//! thread's CPU time.

#[path = "engine/flows.rs"]
mod flows;
#[path = "engine/memory.rs"]
mod memory;
#[path = "engine/sources.rs"]
#[allow(dead_code, reason = "the suite about memory uses more of it")]
mod sources;
#[path = "engine/subject.rs"]
mod subject;

use flows::Kind;
use mailflow_engine::query::window_scan::WindowScan;
use sources::Sources;
use subject::{Subject, cpu_time};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Number of open flows.
const LIVING: u32 = 1_000_000;
/// New flows between two polls: 30,000 a second.
const NEW: u32 = 300_000;
/// Number of sources with windows.
const SOURCES: u32 = 1_000_000;
const MANY: &str = "1000000 sources";
/// Names of the cases with [`SOURCES`] sources. All of them run if one is selected.
const MANY_CASES: [&str; 6] = [
    "its first flow",
    "its second flow",
    "the longest tick of 64, a second apart",
    "quiet, polled each second",
    "the windows gone over once",
    "the longest step of that",
];
/// Measured polls; the fastest one is the result.
const ROUNDS: u64 = 5;

fn main() -> anyhow::Result<()> {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let chosen = |case: &str| only.as_ref().is_none_or(|only| case.contains(only.as_str()));
    if chosen("living flow") {
        living()?;
    }
    for (which, kind) in [("that does not count", Kind::Small), ("that counts", Kind::Counts)] {
        for (how, readings) in [("seen alive once", 2), ("between two readings", 1)] {
            let case = format!("new flow {which}: its whole life, {how}");
            if chosen(&case) {
                line(&case, "ns", life(kind, readings)?, None);
            }
        }
    }
    if MANY_CASES.iter().any(|case| chosen(&many_case(case))) {
        many(chosen)?;
    }
    for count in [100_000, 250_000, 500_000, 1_000_000, 2_000_000, 4_000_000] {
        let case = format!("memory, {count} flows");
        if chosen(&case) {
            let (live, most) = room(count)?;
            line(&format!("{case}: held"), "B/flow", live, Some(64.0));
            line(&format!("{case}: at most"), "B/flow", most, Some(64.0));
        }
    }
    Ok(())
}

/// Measures a million sources under the shipped rules: the cost of a record, and of passes over all sources.
fn many(chosen: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let [first, second, tick, quiet, windows, step] = MANY_CASES.map(many_case);
    let line = |case: &str, unit: &str, value: f64, bar: Option<f64>| {
        if chosen(case) {
            line(case, unit, value, bar);
        }
    };
    let mut sources = Sources::new(&[])?;
    for (round, which) in [(0, first), (1, second)] {
        let begin = cpu_time();
        (0..SOURCES).for_each(|source| drop(sources.flow(source, round)));
        line(&which, "ns", share(begin, SOURCES), None);
    }
    anyhow::ensure!(sources.subjects() >= u64::from(SOURCES) * 2, "{} subjects", sources.subjects());
    let mut longest = 0.0_f64;
    for _ in 0..64 {
        let begin = cpu_time();
        sources.tick();
        longest = longest.max(share(begin, 1) / 1e6);
    }
    line(&tick, "ms", longest, None);
    line(&quiet, "% a core", quiet_share(&mut sources), Some(1.0));
    let (mut survey, mut whole, mut longest) = (WindowScan::new(2_000), 0.0, 0.0_f64);
    let overview = loop {
        let begin = cpu_time();
        let overview = sources.step(&mut survey);
        let took = share(begin, 1) / 1e6;
        (whole, longest) = (whole + took, longest.max(took));
        if let Some(overview) = overview {
            break overview;
        }
    };
    anyhow::ensure!(overview.values.len() == 2_000 && overview.omitted > u64::from(SOURCES));
    line(&windows, "ms", whole, None);
    line(&step, "ms", longest, None);
    Ok(())
}

fn many_case(case: &str) -> String {
    format!("{MANY}: {case}")
}

/// Measures a million sources without traffic: the cost of a poll per second, with the scan of the windows.
fn quiet_share(sources: &mut Sources) -> f64 {
    /// As in the agent: the scan of the windows takes at most 1/500 of the poll interval, and at least one
    /// step.
    const SURVEY: u64 = 1_000_000_000 / 500;
    const POLLS: u32 = 300;
    let mut survey = WindowScan::new(2_000);
    let begin = cpu_time();
    for _ in 0..POLLS {
        sources.tick();
        let begin = cpu_time();
        while sources.step(&mut survey).is_none() && cpu_time() - begin < SURVEY {}
    }
    share(begin, POLLS) / 1e7
}

/// Returns the CPU nanoseconds since `begin`, divided by `count`.
fn share(begin: u64, count: u32) -> f64 {
    (cpu_time() - begin) as f64 / f64::from(count)
}

fn line(case: &str, unit: &str, value: f64, bar: Option<f64>) {
    println!("{}", serde_json::json!({ "case": case, "unit": unit, "value": value, "bar": bar }));
}

/// Measures polls of a table in which no flow or every flow changes.
fn living() -> anyhow::Result<()> {
    let mut subject = Subject::new()?;
    subject.read(1, LIVING, |n| flows::flow(n, Kind::Small, 1));
    let mut round = 1;
    for (case, step) in [("nothing gained", 0), ("a packet gained", 1)] {
        let mut cost = f64::INFINITY;
        for _ in 0..ROUNDS {
            round += 1;
            let packets = if step == 0 { 1 } else { round };
            let spent = subject.read(round, LIVING, |n| flows::flow(n, Kind::Small, packets));
            cost = cost.min(spent as f64 / f64::from(LIVING));
        }
        line(&format!("living flow, {case}"), "ns", cost, None);
    }
    let expected = u64::from(LIVING) * (10 + round);
    anyhow::ensure!(subject.packets() == (expected, expected), "booked: {:?}", subject.packets());
    Ok(())
}

/// Measures flows that are new in one poll and have ended `readings` - 1 polls later.
fn life(kind: Kind, readings: u64) -> anyhow::Result<f64> {
    let mut subject = Subject::new()?;
    let mut cost = f64::INFINITY;
    for round in 1..=ROUNDS + readings {
        // Flows of this round are new; flows of earlier rounds have closed.
        let now = 10 * round;
        let first = round.saturating_sub(readings - 1).max(1);
        let mut spent = 0;
        subject.begin(now);
        for born in first..=round {
            let ended = round - born == readings - 1;
            spent += subject.look(NEW, |n| flows::passing(born, n, kind, ended));
        }
        spent += subject.tick(now);
        if round > readings {
            cost = cost.min(spent as f64 / f64::from(NEW));
        }
    }
    Ok(cost)
}

/// Returns the bytes per open flow: allocated now, and at most while the table grew, without an empty
/// engine's memory.
fn room(count: u32) -> anyhow::Result<(f64, f64)> {
    let mut subject = Subject::new()?;
    let begin = memory::allocated();
    memory::reset_peak();
    let mut most = 0;
    for round in 1..4 {
        subject.read(round, count, |n| flows::flow(n, Kind::Small, round));
        most = most.max(memory::peak());
    }
    let share = |bytes: usize| bytes.saturating_sub(begin) as f64 / f64::from(count);
    Ok((share(memory::allocated()), share(most)))
}
