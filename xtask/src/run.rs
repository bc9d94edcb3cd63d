//! `cargo xtask run`: builds the agent and runs it on a real interface.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    agent::{self, Profile},
    terminal,
};

/// Arguments of `cargo xtask run`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Arguments of `mailflow-agent run`, such as `--interface eth1 --role lan`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

/// Builds the agent and replaces this process by it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut agent = Command::new(agent::build(Profile::Release)?);
    agent.arg("run").args(&args.arguments);
    let line = terminal::shown(&agent);
    if !terminal::is_root() {
        bail!("to load its programs the agent needs root. It is built; run it with:\n  sudo {line}");
    }
    Err(agent.exec()).with_context(|| format!("cannot run `{line}`"))
}
