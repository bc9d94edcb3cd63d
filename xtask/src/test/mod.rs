//! `cargo xtask check` and `cargo xtask test`: the checks that need no root, and all of them.

mod step;

use std::{
    cmp::Reverse,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mailflow_test_support::lab::{self, With};

use self::step::{Lane, Step};
use crate::{
    setup::{self, Purpose},
    terminal::{self, Steps, say},
    workspace,
};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Steps to run, by the names that --list prints; all of them without any
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// List the steps: what each proves, and how many seconds it takes once all is built
    #[arg(long, conflicts_with = "names")]
    list: bool,
}

/// Niceness of the builds that run at the time of live agents, whose checks bound times.
const NICENESS: &str = "19";

struct Outcome {
    name: String,
    elapsed: Duration,
    result: Result<()>,
}

/// Runs the steps that need no root and little time.
pub(crate) fn check() -> Result<()> {
    let steps: Vec<_> = step::all()?.into_iter().filter(|step| step.lane == Lane::Fast).collect();
    summarise(&run_fast(&steps.iter().collect::<Vec<_>>()))
}

/// Runs the named steps or all of them, and prints a summary.
pub(crate) fn run(args: &Args) -> Result<()> {
    let steps = step::all()?;
    if args.list {
        list(&steps);
        return Ok(());
    }
    if !args.names.is_empty() {
        let chosen = chosen(steps, &args.names)?;
        prepare(&chosen)?;
        return summarise(&run_in_turn(&chosen, AfterFailure::Continue));
    }
    ensure!(
        terminal::is_root(),
        "the system tests make network namespaces and load programs into the kernel; run them as root:\n  \
         sudo --preserve-env=HOME env \"PATH=$PATH\" cargo xtask test\n\
         The checks that need no root: cargo xtask check"
    );
    prepare(&steps)?;
    let lane = |lane| steps.iter().filter(|step| step.lane == lane).collect::<Vec<_>>();
    let mut outcomes = run_fast(&lane(Lane::Fast));
    // A fault that is found in a minute is reported in a minute.
    if outcomes.iter().all(|outcome| outcome.result.is_ok()) {
        let builds = lane(Lane::Builds);
        thread::scope(|scope| {
            let builds =
                scope.spawn(|| builds.iter().map(|step| run_at_low_priority(step)).collect::<Vec<_>>());
            outcomes.extend(run_in_turn(lane(Lane::System), AfterFailure::Continue));
            match builds.join() {
                Ok(done) => outcomes.extend(done),
                Err(_) => outcomes.push(Outcome {
                    name: "builds".to_owned(),
                    elapsed: Duration::ZERO,
                    result: Err(anyhow!("the thread of the builds panicked")),
                }),
            }
        });
        outcomes.extend(run_in_turn(lane(Lane::Machines), AfterFailure::Continue));
    }
    summarise(&outcomes)
}

/// Prints what each step proves and how long it takes.
fn list(steps: &[Step]) {
    for (lane, about) in [
        (Lane::Fast, "Without root, in this order: `cargo xtask check` runs these"),
        (Lane::System, "As root, one after the other"),
        (Lane::Builds, "As root, at the same time, with low priority"),
        (Lane::Machines, "As root, one after the other, after those"),
    ] {
        println!("{}", terminal::bold(about));
        for step in steps.iter().filter(|step| step.lane == lane) {
            let seconds = step.seconds().map_or_else(|| "?".to_owned(), |seconds| seconds.to_string());
            println!("  {:<16} {seconds:>4} s  {}", step.name, step.about);
        }
    }
}

/// Returns the named steps in the order of a whole run.
fn chosen(steps: Vec<Step>, names: &[String]) -> Result<Vec<Step>> {
    for name in names {
        if !steps.iter().any(|step| step.name == *name) {
            bail!("there is no step {name}; `cargo xtask test --list` lists them");
        }
    }
    Ok(steps.into_iter().filter(|step| names.contains(&step.name)).collect())
}

/// Installs what the steps need.
fn prepare(steps: &[Step]) -> Result<()> {
    let has = |name: &str| steps.iter().any(|step| step.name == name);
    // The purpose of all tests includes what the others need.
    if steps.iter().any(|step| step.lane == Lane::System || step.name == "fuzz") {
        setup::prepare(Purpose::Test)?;
    } else {
        let purposes = [
            ("kernels", Purpose::Kernels),
            ("package", Purpose::Packaging),
            ("packaging", Purpose::Packaging),
            ("object", Purpose::Bpf),
        ];
        for (_, purpose) in purposes.iter().filter(|(name, _)| has(name)) {
            setup::prepare(*purpose)?;
        }
    }
    if steps.iter().any(|step| step.lane == Lane::System) {
        lab::Package::unpack()?;
    }
    if has("shipped_files") || has("metrics") {
        // Debian's package would start a server: only promtool is wanted.
        let prometheus = lab::unpack("prometheus", With::Nothing)?;
        say(format!("promtool {}, unpacked in target/lab/prometheus", prometheus.version));
    }
    Ok(())
}

/// Action after a failed step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterFailure {
    Continue,
    Stop,
}

/// Runs steps one after the other.
fn run_in_turn<'a>(
    steps: impl IntoIterator<Item = &'a Step, IntoIter: ExactSizeIterator>,
    after_failure: AfterFailure,
) -> Vec<Outcome> {
    let steps = steps.into_iter();
    let mut progress = Steps::new(steps.len());
    let mut outcomes = Vec::new();
    for step in steps {
        progress.next(&step.name);
        let outcome = timed(step, || step.run());
        let stop = outcome.result.is_err() && after_failure == AfterFailure::Stop;
        outcomes.push(outcome);
        if stop {
            break;
        }
    }
    outcomes
}

/// Runs the steps of the fast lane: those of cargo one after the other, and then the test binaries at the same time.
/// Ends at the first of cargo's steps that fails: a wrong format is reported before a build of minutes.
fn run_fast(steps: &[&Step]) -> Vec<Outcome> {
    let (binaries, others): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(|step| step.has_binaries());
    let mut outcomes = run_in_turn(others, AfterFailure::Stop);
    if outcomes.iter().all(|outcome| outcome.result.is_ok()) {
        outcomes.extend(run_at_once(binaries));
    }
    outcomes
}

/// Runs steps of test binaries at the same time, as many as there are CPUs and one more, as some of them wait. The
/// longest ones begin first. Prints the output of the steps that fail.
fn run_at_once(mut steps: Vec<&Step>) -> Vec<Outcome> {
    steps.sort_by_key(|step| Reverse(step.seconds()));
    println!("{}", terminal::bold(&format!("{} suites at the same time", steps.len())));
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let run_next = || {
        while let Some(step) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = run_with_log(step);
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            say(line(&outcome));
            if outcome.result.is_err() {
                let log = fs::read(log_path(step)).unwrap_or_default();
                println!("{}", String::from_utf8_lossy(&log));
            }
            outcomes.push(outcome);
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from) + 1;
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(run_next))));
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a step of test binaries with its output in a log.
fn run_with_log(step: &Step) -> Outcome {
    timed(step, || {
        let (_, log) = create_log(step)?;
        step.run_with_output(Some(&log))
    })
}

/// Returns the path of a step's log.
fn log_path(step: &Step) -> PathBuf {
    workspace::root().join("target/test").join(format!("{}.log", step.name))
}

/// Creates a step's log, and returns it with its path.
fn create_log(step: &Step) -> Result<(PathBuf, fs::File)> {
    let path = log_path(step);
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    let log = fs::File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    Ok((path, log))
}

/// Runs a step as a process of low priority. Its output is printed at its end, and stays in a log.
fn run_at_low_priority(step: &Step) -> Outcome {
    timed(step, || {
        let (path, log) = create_log(step)?;
        let mut command = Command::new("nice");
        command.args(["-n", NICENESS]).arg(std::env::current_exe()?).args(["test", &step.name]);
        command.current_dir(workspace::root()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let result = terminal::run(&mut command);
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        println!("{}\n{text}", terminal::bold(&step.name));
        result
    })
}

fn timed(step: &Step, check: impl FnOnce() -> Result<()>) -> Outcome {
    let start = Instant::now();
    let result = check();
    Outcome { name: step.name.clone(), elapsed: start.elapsed(), result }
}

fn summarise(outcomes: &[Outcome]) -> Result<()> {
    println!("{}", terminal::bold("Summary"));
    for outcome in outcomes {
        say(line(outcome));
        if let Err(error) = &outcome.result {
            say(format!("                 {error:#}"));
        }
    }
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    if failed == 0 { Ok(()) } else { Err(anyhow!("{failed} of {} steps failed", outcomes.len())) }
}

/// Formats an outcome: verdict, seconds, and name.
fn line(Outcome { name, elapsed, result }: &Outcome) -> String {
    let verdict = if result.is_ok() { "ok    " } else { "FAILED" };
    format!("{verdict} {:>6.1} s  {name}", elapsed.as_secs_f64())
}
