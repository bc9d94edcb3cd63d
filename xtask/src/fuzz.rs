//! `cargo xtask fuzz`: the parsers of untrusted input, with inputs that libFuzzer finds.

#[path = "../../tests/fuzz/src/targets.rs"]
mod targets;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use self::targets::{Target, VARIABLE};
use crate::{
    terminal::{self, say},
    workspace,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only this target; may be given several times
    #[arg(long = "target", value_name = "NAME", value_parser = named)]
    pub(crate) targets: Vec<Target>,
    /// Seconds for which each target searches for new inputs, after the known ones
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) seconds: u32,
    /// Run only one input, such as a finding
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// List the targets
    #[arg(long)]
    pub(crate) list: bool,
}

impl Args {
    /// Returns the arguments for all targets, with this many seconds each.
    pub(crate) fn all(seconds: u32) -> Self {
        Self { targets: Vec::new(), seconds, input: None, list: false }
    }
}

fn named(name: &str) -> Result<Target, String> {
    let known = || Target::ALL.map(Target::name).join(", ");
    Target::named(name).ok_or_else(|| format!("expected one of {}", known()))
}

/// Flags of libFuzzer's instrumentation, which stable rustc has as LLVM passes.
const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares \
     -Ccodegen-units=1";
/// Timeout of one input, in seconds. The targets also compare time with the input's length.
const TIMEOUT: u32 = 60;
/// Memory limit of the process, in MiB. The targets also compare memory with the input's length.
const MEMORY: u32 = 4096;

/// Builds the targets and runs all of them in sequence; a finding does not stop the run.
///
/// Findings are in `target/fuzz/findings`. Inputs that reach new code are in `target/fuzz/corpus`, where the
/// next run begins.
pub(crate) fn run(args: &Args) -> Result<()> {
    let targets = if args.targets.is_empty() { &Target::ALL[..] } else { &args.targets };
    if args.list {
        for target in targets {
            println!("{:<10} {}", target.name(), about(*target));
        }
        return Ok(());
    }
    ensure!(args.input.is_none() || targets.len() == 1, "--input takes the --target that reads it");
    let binary = build()?;
    let mut failed = Vec::new();
    for target in targets {
        if let Err(error) = run_one(&binary, *target, args) {
            say(format!("{error:#}"));
            failed.push(target.name());
        }
    }
    ensure!(failed.is_empty(), "findings in {}", failed.join(", "));
    Ok(())
}

/// Returns the input and the property that is checked.
const fn about(target: Target) -> &'static str {
    match target {
        Target::Frames => "frames: the parser agrees with the slow reference parser",
        Target::Pcap => "pcap files: the same in pieces, and after being written again",
        Target::Pcapng => "pcapng files: the same in pieces, and after being written as pcap",
        Target::FlowLog => "flow logs of any format: the same in pieces and by several threads",
        Target::Eve => "EVE lines: the records, written as lines of our own, are read back equal",
        Target::ZeekJson => "conn.log as JSON: the same with and without renamed columns",
        Target::ZeekTsv => "conn.log as columns: the places of faults lie in the file",
        Target::Csv => "tables of networks: bounded faults inside of the file, the same with CRLF",
        Target::Lines => "lists of networks: written as lines, they are read back equal",
        Target::Netbox => "NetBox's answers: bounded faults inside of the file, the same as lines",
        Target::Config => "configurations: as print-config shows them they are accepted, without secrets",
        Target::Web => "web configurations: bounded faults inside of the file, the same with CRLF",
        Target::Journal => "the journal and the history: written again they are read back equal",
        Target::State => "the state: written again it is read back equal, and the engine goes on from it",
        Target::Control => "control requests: an answer for each line, the same in pieces",
        Target::Http => "answers of receivers: no secret is shown, the same in pieces",
    }
}

/// Returns the length of the longest input in bytes.
const fn longest(target: Target) -> u32 {
    match target {
        // Headers up to the maximum depth, and some payload.
        Target::Frames => 700,
        Target::Http => 8 << 10,
        // Longer than the longest request.
        Target::Control => 80 << 10,
        _ => 16 << 10,
    }
}

fn folder() -> PathBuf {
    workspace::root().join("target/fuzz")
}

/// Builds the binary with all targets.
fn build() -> Result<PathBuf> {
    let (host, folder) = (host()?, folder().join("build"));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--release", "--manifest-path", "tests/fuzz/Cargo.toml"]);
    // A separate target: build scripts and macros are not instrumented.
    cargo.args(["--target", &host]).arg("--target-dir").arg(&folder);
    cargo.env("RUSTFLAGS", INSTRUMENTED).current_dir(workspace::root());
    terminal::run(&mut cargo)?;
    Ok(folder.join(host).join("release/mailflow-fuzz"))
}

fn run_one(binary: &Path, target: Target, args: &Args) -> Result<()> {
    let name = target.name();
    println!("{}", terminal::bold(&format!("{name}: {}", about(target))));
    let committed = workspace::root().join("tests/fuzz/corpus").join(name);
    let (learnt, findings) = (folder().join("corpus").join(name), folder().join("findings").join(name));
    for folder in [&learnt, &findings] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let known = files(&findings)?;
    let working = Working::new(name)?;
    let mut command = Command::new(binary);
    command.env(VARIABLE, name).env("TMPDIR", &working.0).current_dir(&working.0);
    command.args([format!("-timeout={TIMEOUT}"), format!("-rss_limit_mb={MEMORY}")]);
    command.arg(format!("-artifact_prefix={}/", findings.display()));
    let result = match &args.input {
        Some(input) => {
            let input = fs::canonicalize(input).with_context(|| format!("reading {}", input.display()))?;
            terminal::run(command.arg(input))
        }
        None => {
            ensure!(!files(&committed)?.is_empty(), "{} has no inputs", committed.display());
            command
                .arg(format!("-max_total_time={}", args.seconds))
                .arg(format!("-max_len={}", longest(target)));
            let dictionary = workspace::root().join(format!("tests/fuzz/dictionaries/{name}.dict"));
            if dictionary.exists() {
                command.arg(format!("-dict={}", dictionary.display()));
            }
            command.args(["-print_final_stats=1", "-verbosity=0", "-print_funcs=0"]);
            logged(command.arg(&learnt).arg(&committed), name)
        }
    };
    result.inspect_err(|_| {
        for found in files(&findings).unwrap_or_default().iter().filter(|found| !known.contains(found)) {
            say(format!("finding: {}", found.display()));
            say(format!("again:   cargo xtask fuzz --target {name} --input {}", found.display()));
            say(format!(
                "once it is fixed, copy it to {}: it is run each time from then on",
                committed.display()
            ));
        }
    })
}

/// Runs the fuzzer with its output in a log, and prints a line of numbers; after a failure, prints the log.
fn logged(command: &mut Command, name: &str) -> Result<()> {
    let path = folder().join(format!("{name}.log"));
    let log = fs::File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    command.stdout(log.try_clone()?).stderr(log);
    let result = terminal::run(command);
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    if result.is_err() {
        eprintln!("{text}");
    }
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("stat::{name}:")));
        line.map_or("?", str::trim).to_owned()
    };
    println!(
        "{} inputs, of which {} led to new code and are kept; {}",
        figure("number_of_executed_units"),
        figure("new_units_added"),
        path.display()
    );
    result
}

/// Returns the files in a folder, sorted by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Working directory, in memory if the system has /dev/shm; removed on drop.
struct Working(PathBuf);

impl Working {
    fn new(name: &str) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory } else { &std::env::temp_dir() };
        let path = parent.join(format!("mailflow-fuzz-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            say(format!("{} cannot be removed: {error}", self.0.display()));
        }
    }
}

/// Returns the target triple of this machine.
fn host() -> Result<String> {
    let rustc = Command::new("rustc").arg("-vV").output().context("running rustc")?;
    let text = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}
