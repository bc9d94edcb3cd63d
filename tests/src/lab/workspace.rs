//! Path of the repository.

use std::path::{Path, PathBuf};

/// Returns the path of the repository.
#[must_use]
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}
