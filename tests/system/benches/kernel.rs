//! Cost of the kernel program. Prints a line of JSON for each case; `cargo xtask bench` makes a table of
//! them. docs/understand/performance.md describes the method.

#[path = "kernel/cases.rs"]
mod cases;
#[path = "kernel/drain.rs"]
mod drain;
#[path = "kernel/driver.rs"]
mod driver;
#[path = "kernel/measure.rs"]
mod measure;
#[path = "kernel/sys.rs"]
mod sys;
#[path = "../../common/under_test.rs"]
mod under_test;

use std::collections::BTreeMap;

use mailflow_kernel::{Kernel, LoadOptions, Programs};

use cases::{Case, Fill};
use measure::Prepared;

/// Measured rounds of each case. `MAILFLOW_BENCH_ROUNDS` raises the number, for a profiler.
const ROUNDS: usize = 20;

fn main() -> anyhow::Result<()> {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let cases = cases::all();
    let chosen = |case: &&Case| only.as_ref().is_none_or(|only| case.name.contains(only.as_str()));
    let cases: Vec<&Case> = cases.iter().filter(chosen).collect();
    // Loading every program takes seconds.
    let one = cases.iter().all(|case| case.program == cases::FILLER);
    let programs = if one { Programs::One(cases::FILLER) } else { Programs::All };
    let mut kernels = BTreeMap::new();
    for case in &cases {
        if let std::collections::btree_map::Entry::Vacant(vacant) = kernels.entry(case.fill) {
            measure::fill(case.fill, vacant.insert(load(case.fill, programs.clone())?))?;
        }
    }
    let mut prepared = Vec::new();
    for (number, case) in cases.into_iter().enumerate() {
        prepared.push(Prepared::new(number, case, &kernels[&case.fill])?);
    }
    let rounds = std::env::var("MAILFLOW_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let mut order = Shuffle(1);
    for _ in 0..rounds.unwrap_or(ROUNDS) {
        order.shuffle(&mut prepared);
        for prepared in &mut prepared {
            let fill = prepared.case().fill;
            if let Some(kernel) = kernels.get_mut(&fill) {
                prepared.measure(kernel)?;
            }
        }
    }
    prepared.sort_by_key(|prepared| prepared.number);
    for prepared in &prepared {
        let case = prepared.case();
        line(&case.name, "ns", prepared.result(), case.bar);
    }
    drop(prepared);
    if only.is_some() {
        return Ok(());
    }
    for (fill, kernel) in &mut kernels {
        if *fill != Fill::Few {
            drain::measure(kernel, *fill)?;
            drain::memory(*fill)?;
        }
    }
    Ok(())
}

/// Prints one result; `bar` is its maximum.
fn line(case: &str, unit: &str, value: f64, bar: Option<f64>) {
    println!("{}", serde_json::json!({ "case": case, "unit": unit, "value": value, "bar": bar }));
}

fn load(fill: Fill, programs: Programs) -> anyhow::Result<Kernel> {
    let options = LoadOptions {
        flows: fill.capacity(),
        flows_per_source: fill.capacity(),
        external_clock: false,
        ..under_test::options(programs)
    };
    Ok(under_test::load(&options, &[25, 465, 587, 994])?)
}

/// Generator of permutations: a new one for each call, and the same sequence in every run.
struct Shuffle(u64);

impl Shuffle {
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            // Marsaglia's xorshift.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            items.swap(last, (self.0 % (last as u64 + 1)) as usize);
        }
    }
}
