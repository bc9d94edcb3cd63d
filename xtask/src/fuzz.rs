//! `cargo xtask fuzz`: the parser against frames that libFuzzer finds.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{terminal, workspace};

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to look for frames on which the parsers differ
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) seconds: u32,
}

/// libFuzzer's instrumentation, which stable rustc has as passes of LLVM.
const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares \
     -Ccodegen-units=1";
/// Headers as deep as they are followed, and some payload.
const LONGEST: u32 = 700;

/// Builds the target and runs it. What was found lies in `target/fuzz`, the frames that lead to code
/// not reached before in `target/fuzz/corpus`, for the next run to begin with.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = workspace::root().join("target/fuzz");
    let corpus = folder.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("making {}", corpus.display()))?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--locked", "--release", "--manifest-path", "tests/fuzz/Cargo.toml"]);
    // A target of its own: build scripts and macros are not instrumented.
    cargo.args(["--target", &host()?]).arg("--target-dir").arg(folder.join("build"));
    cargo.env("RUSTFLAGS", INSTRUMENTED).current_dir(workspace::root());
    cargo.arg("--").arg(&corpus);
    cargo.arg(format!("-artifact_prefix={}/", folder.display()));
    cargo.args([format!("-max_total_time={}", args.seconds), format!("-max_len={LONGEST}")]);
    terminal::run(cargo.arg("-print_final_stats=1"))
}

/// The triple of this machine.
fn host() -> Result<String> {
    let rustc = Command::new("rustc").arg("-vV").output().context("running rustc")?;
    let text = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}
