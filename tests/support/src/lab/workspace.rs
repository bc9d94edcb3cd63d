//! Path and files of the repository.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::command::output;

/// Returns the path of the repository.
#[must_use]
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_path_buf()
}

/// Returns the files that git tracks, and new ones that it does not ignore, by these path patterns.
///
/// # Errors
/// git cannot be run.
pub fn repository_files(patterns: &[&str]) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--"]).args(patterns);
    let listed = output(git.current_dir(workspace()))?;
    // A file that was removed stays in git's index until the next commit.
    Ok(listed.lines().filter(|name| workspace().join(name).exists()).map(str::to_owned).collect())
}
