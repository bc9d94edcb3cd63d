//! Folders of tests.

use std::{fs, path::PathBuf};

/// Folder of temporary files, removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// Creates the folder.
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mailflow-docs-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
