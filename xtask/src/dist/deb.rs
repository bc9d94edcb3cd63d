//! Package for Debian and Ubuntu; equal binaries give equal packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::tree::{CONFFILES, Tree};
use crate::{terminal, workspace};

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Packages the binary; returns the package's path in `out`.
pub(super) fn build(binary: &Path, out: &Path) -> Result<PathBuf> {
    let tree = Tree::build(out.join("tree"), binary)?;
    let version = env!("CARGO_PKG_VERSION");
    let architecture = said(Command::new("dpkg").arg("--print-architecture"))?;
    let control = text("config/debian/control")?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", &architecture)
        .replace("@SIZE@", &size(&tree)?.to_string());
    let sums = sums(&tree)?;
    tree.write("DEBIAN/control", control.as_bytes(), 0o644)?;
    tree.write("DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
    tree.write("DEBIAN/conffiles", format!("{}\n", CONFFILES.join("\n")).as_bytes(), 0o644)?;
    for script in SCRIPTS {
        tree.write(&format!("DEBIAN/{script}"), text(&format!("config/debian/{script}"))?.as_bytes(), 0o755)?;
    }
    let package = out.join(format!("mailflow-agent_{version}_{architecture}.deb"));
    let mut dpkg = Command::new("dpkg-deb");
    // No file is newer than the sources. One thread, as more of them divide the archive differently.
    dpkg.args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"]).arg(tree.root()).arg(&package);
    dpkg.env("SOURCE_DATE_EPOCH", epoch()?).stdout(std::process::Stdio::null());
    terminal::run(&mut dpkg)?;
    Ok(package)
}

/// Returns the time of the sources, in seconds since 1970: SOURCE_DATE_EPOCH, or the time of the last commit.
fn epoch() -> Result<String> {
    if let Ok(told) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(told);
    }
    let mut git = Command::new("git");
    git.arg("-C").arg(workspace::root()).args(["log", "-1", "--format=%ct"]);
    said(&mut git).context("where there is no git, set SOURCE_DATE_EPOCH")
}

/// Returns the MD5 sums of all files, with which dpkg detects modified files.
fn sums(tree: &Tree) -> Result<String> {
    let mut sum = Command::new("md5sum");
    said(sum.args(tree.files()?).current_dir(tree.root())).map(|sums| sums + "\n")
}

/// Returns the installed size, in kB.
fn size(tree: &Tree) -> Result<u64> {
    let mut bytes = 0;
    for file in tree.files()? {
        bytes += tree.root().join(file).metadata()?.len();
    }
    Ok(bytes.div_ceil(1024))
}

fn text(name: &str) -> Result<String> {
    let path = workspace::root().join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| terminal::shown(command))?;
    ensure!(output.status.success(), "`{}` failed: {}", terminal::shown(command), output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
