//! Temporary folder of a test.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
};

/// Temporary folder of this process, which is removed on drop.
#[derive(Debug)]
pub struct TempFolder(PathBuf);

impl TempFolder {
    /// Creates an empty folder. Tests that run at the same time need different names.
    ///
    /// # Panics
    /// The folder cannot be created.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mailflow-{name}-{}", std::process::id()));
        // An earlier process with this number may have left one.
        drop(fs::remove_dir_all(&path));
        if let Err(error) = fs::create_dir_all(&path) {
            panic!("creating {}: {error}", path.display());
        }
        Self(path)
    }
}

impl Deref for TempFolder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for TempFolder {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // A test that fails has its own error.
        drop(fs::remove_dir_all(&self.0));
    }
}
