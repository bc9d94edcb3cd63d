//! `cargo xtask test`: all tests and checks.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use mailflow_tests::lab::{self, With};

use crate::{
    bpf, delivery, deny, fuzz, imports, kernels,
    setup::{self, Purpose},
    terminal::{self, Steps, say},
    workspace,
};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only boot the supported kernels, and run the program there
    #[arg(long)]
    kernels: bool,
    /// Only build the package, and install it on hosts
    #[arg(long, conflicts_with = "kernels")]
    delivery: bool,
}

/// Checks that cargo runs.
const CARGO: &[&[&str]] = &[
    &["fmt", "--all", "--check"],
    &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["test", "--locked", "--workspace", "--no-fail-fast"],
];

/// Seconds for which each fuzz target searches for new inputs: with the committed ones, all targets take less
/// than a minute.
const FUZZ_SECONDS: u32 = 2;

/// Runs all checks; a failure does not stop the run. Ends with a summary.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.kernels {
        setup::prepare(Purpose::Kernels)?;
        return kernels::run();
    }
    if args.delivery {
        setup::prepare(Purpose::Delivery)?;
        return delivery::run();
    }
    ensure!(
        terminal::is_root(),
        "the tests make network namespaces and load programs into the kernel; run them as root:\n  \
         sudo --preserve-env=HOME env \"PATH=$PATH\" cargo xtask test"
    );
    let mut steps = Steps::new(CARGO.len() + 7);
    steps.next("setup");
    setup::prepare(Purpose::Test)?;
    // Debian's package would start a server: only promtool is needed.
    let prometheus = lab::unpack("prometheus", With::Nothing)?;
    say(format!("promtool {}, unpacked in target/lab/prometheus", prometheus.version));
    lab::Package::unpack()?;

    let mut results = Vec::new();
    for words in CARGO {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(*words).current_dir(workspace::root());
        cargo.env("PROMTOOL", prometheus.root.join("usr/bin/promtool"));
        let name = format!("cargo {}", words.join(" "));
        results.push(timed(&mut steps, name, || terminal::run(&mut cargo)));
    }
    results.push(timed(&mut steps, "cargo xtask imports".to_owned(), imports::check));
    // The committed inputs, including all earlier findings, and a few new ones.
    results.push(timed(&mut steps, format!("cargo xtask fuzz --seconds {FUZZ_SECONDS}"), || {
        fuzz::run(&fuzz::Args::all(FUZZ_SECONDS))
    }));
    let check = bpf::Args { check: true };
    results.push(timed(&mut steps, "cargo xtask bpf --check".to_owned(), || bpf::run(&check)));
    results.push(timed(&mut steps, "cargo xtask deny".to_owned(), deny::run));
    results.push(timed(&mut steps, "cargo xtask test --kernels".to_owned(), kernels::run));
    results.push(timed(&mut steps, "cargo xtask test --delivery".to_owned(), delivery::run));
    summarise(&results)
}

struct Outcome {
    name: String,
    took: Duration,
    result: Result<()>,
}

fn timed(steps: &mut Steps, name: String, check: impl FnOnce() -> Result<()>) -> Outcome {
    steps.next(&name);
    let began = Instant::now();
    let result = check();
    Outcome { name, took: began.elapsed(), result }
}

fn summarise(results: &[Outcome]) -> Result<()> {
    println!("{}", terminal::bold("Summary"));
    for Outcome { name, took, result } in results {
        let verdict = if result.is_ok() { "ok    " } else { "FAILED" };
        say(format!("{verdict} {:>6.1} s  {name}", took.as_secs_f64()));
        if let Err(error) = result {
            say(format!("                 {error:#}"));
        }
    }
    let failed = results.iter().filter(|outcome| outcome.result.is_err()).count();
    if failed == 0 { Ok(()) } else { Err(anyhow!("{failed} of {} checks failed", results.len())) }
}
