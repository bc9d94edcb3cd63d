//! Root of the repository, and its packages.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub(crate) use mailflow_test_support::lab::workspace as root;

/// Returns the packages of the workspace, as `cargo metadata` prints them.
pub(crate) fn packages() -> Result<Vec<Value>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let output = cargo.current_dir(root()).output().context("running cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(metadata["packages"].as_array().context("cargo metadata has no packages")?.clone())
}
