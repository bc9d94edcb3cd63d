//! `cargo xtask scenarios`: attacks that the shipped rules detect, and their false positives.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seed of the history
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["bench", "--quiet", "--locked", "-p", "mailflow-system-tests", "--bench", "scenarios", "--"]);
    let status = cargo.arg(format!("--seed={}", args.seed)).current_dir(workspace::root()).status();
    ensure!(status.context("cargo bench")?.success(), "the scenarios failed");
    Ok(())
}
