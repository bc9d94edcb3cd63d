//! `cargo xtask setup`: requirements of the other tasks.
//!
//! Only command-line tools are installed, and no service. Postfix, Prometheus, Alertmanager, nfdump,
//! tcpreplay and libfaketime are unpacked under `target/lab`, and so is QEMU if the host has none.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use mailflow_test_support::lab;

use crate::{bpf, terminal};

/// Maximum age of package lists: older ones may name packages that the mirrors no longer have.
const LISTS_ARE_OLD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Task to prepare for
    #[arg(long = "for", value_name = "TASK", default_value = "test")]
    purpose: Purpose,
}

/// Task to prepare for.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask test`, which has the requirements of all other tasks but `screenshots`
    Test,
    /// `cargo xtask test kernels`
    Kernels,
    /// `cargo xtask test packaging`
    Packaging,
    /// `cargo xtask bpf`
    Bpf,
    /// `cargo xtask screenshots`
    Screenshots,
}

/// Command, its Debian package, and the tasks that run it.
struct Tool {
    command: &'static str,
    package: &'static str,
    purposes: &'static [Purpose],
}

const TOOLS: &[Tool] = {
    use Purpose::{Demo, Kernels, Packaging, Screenshots, Test};
    &[
        Tool { command: "ip", package: "iproute2", purposes: &[Demo, Test, Kernels, Packaging, Screenshots] },
        Tool { command: "nft", package: "nftables", purposes: &[Demo, Test, Packaging, Screenshots] },
        Tool { command: "openssl", package: "openssl", purposes: &[Demo, Test, Screenshots] },
        Tool { command: "curl", package: "curl", purposes: &[Demo, Test, Packaging, Screenshots] },
        Tool { command: "ldd", package: "libc-bin", purposes: &[Demo, Test, Kernels, Screenshots] },
        Tool { command: "unshare", package: "util-linux", purposes: &[Demo, Test, Screenshots] },
        Tool { command: "mount", package: "mount", purposes: &[Demo, Test, Packaging, Screenshots] },
        Tool { command: "c++", package: "g++", purposes: &[Test] },
        Tool { command: "ethtool", package: "ethtool", purposes: &[Test, Kernels] },
        Tool { command: "xz", package: "xz-utils", purposes: &[Test, Kernels] },
        Tool { command: "systemd-analyze", package: "systemd", purposes: &[Test] },
        Tool { command: "groff", package: "groff-base", purposes: &[Test] },
        Tool { command: "lintian", package: "lintian", purposes: &[Test, Packaging] },
        Tool { command: "mmdebstrap", package: "mmdebstrap", purposes: &[Test, Packaging] },
        Tool { command: "ansible-playbook", package: "ansible-core", purposes: &[Test, Packaging] },
        Tool { command: "ansible-lint", package: "ansible-lint", purposes: &[Test, Packaging] },
        Tool { command: "ssh-keygen", package: "openssh-client", purposes: &[Test, Packaging] },
        Tool { command: "python3", package: "python3-venv", purposes: &[Test, Packaging] },
        Tool { command: "node", package: "nodejs", purposes: &[Screenshots] },
        Tool { command: "npm", package: "npm", purposes: &[Screenshots] },
        Tool { command: "zstd", package: "zstd", purposes: &[Test, Kernels] },
    ]
};

/// Prepares the machine.
pub(crate) fn run(args: &Args) -> Result<()> {
    prepare(args.purpose)
}

/// Installs what `purpose` lacks. If that needs root and this is not root, the error has the commands.
pub(crate) fn prepare(purpose: Purpose) -> Result<()> {
    let needed: Vec<_> = TOOLS.iter().filter(|tool| tool.purposes.contains(&purpose)).collect();
    let (present, missing): (Vec<_>, Vec<_>) =
        needed.into_iter().partition(|tool| lab::is_present(tool.command));
    if !present.is_empty() {
        terminal::say(format!("here: {}", list(present.iter().map(|tool| tool.command))));
    }
    let mut packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    if matches!(purpose, Purpose::Test | Purpose::Bpf) {
        packages.extend(bpf::missing_packages());
    }
    // The lab downloads further packages, which needs apt's lists.
    let downloads = match purpose {
        Purpose::Demo => &["postfix"][..],
        Purpose::Test => &[
            "postfix",
            "prometheus",
            "prometheus-alertmanager",
            "nfdump",
            "tcpreplay",
            "systemd-container",
            "libfaketime",
        ],
        Purpose::Packaging => &["systemd-container"],
        Purpose::Screenshots => &["postfix", "prometheus", "chromium-headless-shell"],
        Purpose::Kernels | Purpose::Bpf => &[],
    };
    let downloads = downloads.iter().any(|package| !lab::is_unpacked(package));
    // The lists also give the mirror of the kernels.
    let downloads = downloads || matches!(purpose, Purpose::Test | Purpose::Kernels | Purpose::Packaging);
    let lists = Lists::find();
    let update = (downloads && lists == Lists::Missing) || (!packages.is_empty() && lists != Lists::Good);
    if !packages.is_empty() {
        terminal::say(format!("missing: {}", list(packages.iter().copied())));
    }
    install(&packages, update)?;
    if purpose == Purpose::Test {
        rust_components()?;
    }
    Ok(())
}

/// Runs apt-get, or fails with the commands to run.
fn install(packages: &[&str], update: bool) -> Result<()> {
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    let mut commands = Vec::new();
    if update {
        commands.push(apt(&["update"]));
    }
    if !packages.is_empty() {
        // --no-remove: an installation that would remove a package fails instead.
        let mut install = apt(&["install", "--yes", "--no-install-recommends", "--no-remove"]);
        install.args(packages);
        commands.push(install);
    }
    if commands.is_empty() {
        return Ok(());
    }
    let lines = || list_lines(commands.iter().map(|command| format!("  sudo {}", terminal::shown(command))));
    if !lab::is_present("apt-get") {
        bail!(
            "this is no Debian or Ubuntu: install these by your system's means: {}",
            list(packages.iter().copied())
        );
    }
    if !terminal::is_root() {
        bail!("to get what is missing, run as root, then try again:\n{}", lines());
    }
    for command in &mut commands {
        terminal::say(terminal::shown(command));
        // apt-get's output is long; only its warnings and errors are printed.
        terminal::run(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
    }
    Ok(())
}

/// Installs cargo's clippy and fmt, which a minimal toolchain lacks.
fn rust_components() -> Result<()> {
    let works = |subcommand: &str| {
        let output = Command::new(env!("CARGO")).args([subcommand, "--version"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let parts = [("clippy", "clippy"), ("fmt", "rustfmt")];
    let missing: Vec<_> =
        parts.iter().filter(|(command, _)| !works(command)).map(|(_, part)| *part).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    terminal::run(rustup.args(["component", "add"]).args(&missing)).context(
        "cargo lacks clippy or fmt; where rustup is not in use, Debian's packages are rust-clippy and rustfmt",
    )
}

/// State of apt's package lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    Good,
    Old,
    Missing,
}

impl Lists {
    fn find() -> Self {
        let folder = Path::new("/var/lib/apt/lists");
        let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        if !entries.any(|entry| entry.file_name().to_string_lossy().contains("_Packages")) {
            return Self::Missing;
        }
        // The lists have the server's time; only apt's folders have the time of the download.
        let fetched = [folder, &folder.join("partial")].map(|path| path.metadata()?.modified());
        let ages = fetched.into_iter().flatten().map(|time| SystemTime::now().duration_since(time));
        match ages.flatten().min() {
            Some(age) if age < LISTS_ARE_OLD => Self::Good,
            _ => Self::Old,
        }
    }
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

fn list_lines(lines: impl Iterator<Item = String>) -> String {
    lines.collect::<Vec<_>>().join("\n")
}
