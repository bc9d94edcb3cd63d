//! The agent's binary, built from the current sources.

use std::{ffi::OsString, path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context, Result, anyhow, ensure};

use super::workspace::workspace;

/// Builds the agent with the profile and target folder of the running test, so that a test never runs an
/// outdated agent. A benchmark gets the agent as it is installed. `MAILFLOW_AGENT_PROFILE` selects another
/// profile.
///
/// # Errors
/// The build fails.
pub fn agent_binary() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(|error| anyhow!(error))
}

fn build() -> Result<PathBuf> {
    // target/debug/deps/live-0123456789abcdef
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("the test is in no target folder")?;
    let target = profile.parent().context("the test is in no target folder")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--target-dir"]).arg(target);
    let wanted = std::env::var("MAILFLOW_AGENT_PROFILE").ok();
    let installed = || profile.ends_with("release").then(|| "dist".to_owned());
    let folder = match wanted.or_else(installed) {
        Some(name) => {
            cargo.args(["--package", "mailflow-agent", "--profile", &name]);
            target.join(name)
        }
        None => {
            // With a test among the targets, cargo unifies features as it does for all tests, and the agent links the
            // libraries that were built for them.
            cargo.args(["--workspace", "--bin", "mailflow-agent", "--test", "parser"]);
            profile.to_owned()
        }
    };
    // Variables of the package under test: build scripts that read them would run again, and with them the agent's
    // dependencies would build again.
    for name in package_variables() {
        cargo.env_remove(name);
    }
    ensure!(cargo.current_dir(workspace()).status()?.success(), "the agent does not build");
    Ok(folder.join("mailflow-agent"))
}

/// Returns the names of the variables by which cargo describes a package to its tests and programs.
pub fn package_variables() -> impl Iterator<Item = OsString> {
    let is_of_package = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_CRATE_NAME"
    };
    std::env::vars_os().map(|(name, _)| name).filter(is_of_package)
}
