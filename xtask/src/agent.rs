//! Build of the agent.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{terminal, workspace};

/// Build profile of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Profile of the tests: quick to build.
    Dev,
    /// Profile of the installed agent.
    Release,
}

/// Builds the agent with cargo's progress visible, and returns its binary.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--package", "mailflow-agent", "--bin", "mailflow-agent"]);
    cargo.args((profile == Profile::Release).then_some("--release"));
    terminal::run(cargo.current_dir(workspace::root()))?;
    binary(profile)
}

/// Returns the path of the built agent: cargo puts it into this program's folder.
pub(crate) fn binary(profile: Profile) -> Result<PathBuf> {
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    let own = std::env::current_exe().context("the path of xtask")?;
    let target = own.ancestors().nth(2).context("xtask is in no target folder")?;
    Ok(target.join(folder).join("mailflow-agent"))
}
