//! `cargo xtask test packaging`: the package, the Ansible role on booted hosts, and ClickHouse.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    dist::{self, Built},
    terminal::{self, say},
    workspace,
};

/// ClickHouse in process, as a Python package.
const CHDB: &str = "chdb==4.4.0";

/// Builds the package twice, checks that both are equal, and runs the suite `packaging` with it.
pub(crate) fn run() -> Result<()> {
    ensure!(terminal::is_root(), "hosts are booted: run it as root");
    let Built { binary, package } = dist::run(&dist::Args::default())?;
    let again = workspace::root().join("target/package/again");
    let again = dist::Args { binary: Some(binary), out: again };
    let second = dist::run(&again)?.package;
    ensure!(
        fs::read(&package)? == fs::read(&second)?,
        "{} and {} differ",
        package.display(),
        second.display()
    );
    say("built twice: the same bytes");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--workspace", "--test", "packaging"]);
    cargo.env("MAILFLOW_PACKAGE", &package).env("MAILFLOW_PYTHON", python()?);
    terminal::run(cargo.current_dir(workspace::root()))
}

/// Returns a Python with ClickHouse, under `target/lab`.
fn python() -> Result<PathBuf> {
    let folder = workspace::root().join("target/lab/python");
    let python = folder.join("bin/python");
    let ready = |python: &Path| {
        let import = Command::new(python).args(["-c", "import chdb"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    if !ready(&python) {
        let mut venv = Command::new("python3");
        terminal::run(venv.args(["-m", "venv", "--clear"]).arg(&folder))
            .context("Debian's package for this is python3-venv")?;
        let mut pip = Command::new(&python);
        terminal::run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", CHDB]))?;
    }
    Ok(python)
}
