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

/// ClickHouse in process, as a Python package: the engine of `chdb` without that package's data frames, 181 MB instead
/// of 300 MB.
const CLICKHOUSE: &str = "chdb-core==26.9.0";
/// Attempts to install a package. It is large, and an index may break off a download.
const ATTEMPTS: u32 = 4;

/// Makes what the suite `packaging` needs: the package, built twice and compared, and a Python with ClickHouse. Returns
/// the paths of both.
pub(crate) fn build() -> Result<(PathBuf, PathBuf)> {
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
    Ok((package, python()?))
}

/// Runs the suite `packaging`.
pub(crate) fn run() -> Result<()> {
    ensure!(terminal::is_root(), "hosts are booted: run it as root");
    let (package, python) = build()?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--workspace", "--test", "packaging"]);
    cargo.env("MAILFLOW_PACKAGE", &package).env("MAILFLOW_PYTHON", python);
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
        install(&python)?;
        ensure!(ready(&python), "{CLICKHOUSE} is installed in {} and cannot be imported", folder.display());
    }
    Ok(python)
}

/// Installs ClickHouse, and tries again if that fails.
fn install(python: &Path) -> Result<()> {
    let mut attempt = 1;
    loop {
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--no-cache-dir", "--no-deps", "--retries", "5", "--timeout", "180", CLICKHOUSE]);
        let output = pip.output().with_context(|| format!("cannot run `{}`", terminal::shown(&pip)))?;
        let messages = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(());
        }
        say(format!("attempt {attempt} of {ATTEMPTS} to install {CLICKHOUSE}:\n{messages}"));
        let last = messages.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
        ensure!(attempt < ATTEMPTS, "`{}` failed: {}: {last}", terminal::shown(&pip), output.status);
        attempt += 1;
    }
}
