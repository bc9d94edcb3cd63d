//! Static binary: one for every distribution, independent of its C library.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{terminal, workspace};

/// Builds the binary; equal sources and toolchains give equal bytes in any folder.
pub(super) fn build() -> Result<PathBuf> {
    let root = workspace::root();
    let target = host()?;
    let home = std::env::home_dir().context("there is no home directory")?;
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    // Since glibc 2.34 the name resolution for files and DNS is in the static library.
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=/cargo", cargo_home.display()),
        format!("--remap-path-prefix={}=/mailflow", root.display()),
    ];
    let mut cargo = Command::new(env!("CARGO"));
    // With --target the flags do not apply to build scripts and macros, which cannot be static.
    cargo.args(["build", "--locked", "--profile", "dist", "--target", &target]);
    cargo.args(["--package", "mailflow-agent", "--bin", "mailflow-agent"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env_remove("RUSTFLAGS");
    terminal::run(cargo.current_dir(&root))?;
    // xtask is in target/debug.
    let own = std::env::current_exe().context("the path of xtask")?;
    let folder = own.ancestors().nth(2).context("xtask is in no target folder")?;
    Ok(folder.join(&target).join("dist/mailflow-agent"))
}

/// Returns the machine's target triple.
pub(super) fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).context("rustc -vV names no host")
}
