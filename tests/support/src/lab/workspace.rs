//! Path of the repository.

use std::path::{Path, PathBuf};

/// Returns the path of the repository.
#[must_use]
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_path_buf()
}
