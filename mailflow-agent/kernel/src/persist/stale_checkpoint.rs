//! Mark of a stale checkpoint: the pinned maps are ahead of the checkpoint on disk, which could not be
//! written.
//!
//! It is a symbolic link in the BPF file system, which takes no space on a disk. Its target is the time of
//! the checkpoint.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

const MARK_NAME: &str = "ahead";

/// Mark of a stale checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleCheckpointMark {
    path: PathBuf,
}

impl StaleCheckpointMark {
    /// Returns the mark of the maps in this directory.
    pub(crate) fn of(directory: &Path) -> Self {
        Self { path: directory.join(MARK_NAME) }
    }

    /// Marks the maps as ahead of the checkpoint of this time.
    ///
    /// # Errors
    /// The system refuses.
    pub fn mark(&self, state: Option<u64>) -> io::Result<()> {
        self.clear()?;
        symlink(target(state), &self.path)
    }

    /// Removes the mark, if there is one.
    ///
    /// # Errors
    /// The system refuses.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Returns true if the maps are ahead of the checkpoint of this time.
    pub fn is_marked(&self, state: Option<u64>) -> bool {
        fs::read_link(&self.path).is_ok_and(|found| found.as_os_str() == target(state).as_str())
    }
}

fn target(state: Option<u64>) -> String {
    match state {
        Some(moment) => format!("state-{moment}"),
        None => "no-state".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_belongs_to_one_checkpoint() {
        let directory = std::env::temp_dir().join(format!("mailflow-ahead-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let ahead = StaleCheckpointMark::of(&directory);
        assert!(!ahead.is_marked(Some(7)) && !ahead.is_marked(None));
        ahead.clear().unwrap();
        for state in [Some(7), Some(8), None] {
            ahead.mark(state).unwrap();
            let marked = [Some(7), Some(8), None].map(|other| ahead.is_marked(other));
            assert_eq!(marked, [Some(7), Some(8), None].map(|other| other == state));
        }
        ahead.clear().unwrap();
        assert!(!ahead.is_marked(None));
        fs::remove_dir(directory).unwrap();
    }
}
