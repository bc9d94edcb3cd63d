//! Checks of the dependencies by cargo-deny: licences, duplicates and bans, sources, known vulnerabilities.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    terminal::{self, say},
    workspace,
};

/// Version of cargo-deny that the configuration is written for.
const VERSION: &str = "0.20.2";

/// Checks by `deny.toml`. If the vulnerability database cannot be fetched, that check is skipped with a
/// message.
pub(crate) fn run() -> Result<()> {
    let tool = tool()?;
    let deny = || {
        let mut deny = Command::new(&tool);
        deny.args(["--locked", "check"]).current_dir(workspace::root());
        deny
    };
    terminal::run(deny().args(["licenses", "bans", "sources"]))?;
    let output = deny().arg("advisories").stdin(Stdio::null()).output().context("cannot run cargo-deny")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && text.contains("failed to fetch advisory database") {
        say("SKIPPED: known vulnerabilities, as their database cannot be fetched from here");
        return Ok(());
    }
    ensure!(output.status.success(), "cargo deny check advisories:\n{text}");
    Ok(())
}

/// Returns cargo-deny, built once below `target`.
fn tool() -> Result<PathBuf> {
    let home = workspace::root().join(format!("target/tools/cargo-deny-{VERSION}"));
    let tool = home.join("bin/cargo-deny");
    let works = || Command::new(&tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !works() {
        say(format!("building cargo-deny {VERSION}"));
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "install",
            "cargo-deny",
            "--version",
            VERSION,
            "--locked",
            "--debug",
            "--force",
            "--root",
        ]);
        cargo.arg(&home).env("CARGO_TARGET_DIR", home.join("build")).env("CARGO_PROFILE_DEV_DEBUG", "0");
        terminal::run(&mut cargo)?;
    }
    Ok(tool)
}
