//! Offsets of output files, and the lines that were written after them.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Largest number of bytes at the end of a file that are searched for lines.
const MAX_SCAN_BYTES: u64 = 64 << 20;

/// Length of an output file at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOffset {
    path: PathBuf,
    inode: u64,
    length: u64,
}

impl FileOffset {
    /// Returns the offset of a file now; `None` if it is no regular file.
    pub(crate) fn current(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self { path: path.to_owned(), inode: found.ino(), length: found.len() })
    }
}

/// Lines that were written to output files after their offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenLines {
    files: HashMap<PathBuf, HashMap<String, usize>>,
}

impl WrittenLines {
    /// Reads the lines after the offsets. Removes a truncated last line, as it is written again.
    pub(crate) fn read(offsets: &[FileOffset]) -> Self {
        let mut written = Self::default();
        for offset in offsets {
            if let Err(error) = written.add(offset) {
                tracing::warn!(file = %offset.path.display(), %error, "failed to read the last lines of an output file; they may be repeated");
            }
        }
        written
    }

    fn add(&mut self, offset: &FileOffset) -> std::io::Result<()> {
        let mut file = File::options().read(true).write(true).open(&offset.path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Ok(());
        }
        // All lines of another file with this name are new.
        let same = found.ino() == offset.inode && found.len() >= offset.length;
        let from = if same { offset.length } else { 0 }.max(found.len().saturating_sub(MAX_SCAN_BYTES));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            file.set_len(from + whole as u64)?;
        }
        let lines = self.files.entry(offset.path.clone()).or_default();
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            *lines.entry(line.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// Returns true if a file has a line, and removes the line from the set: of equal lines each counts once.
    pub fn take(&mut self, file: &Path, line: &str) -> bool {
        match self.files.get_mut(file).and_then(|lines| lines.get_mut(line)) {
            Some(remaining @ 1..) => {
                *remaining -= 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_offset_count_once_and_a_truncated_one_is_removed() {
        let path = std::env::temp_dir().join(format!("mailflow-tail-{}", std::process::id()));
        fs::write(&path, "old\n").unwrap();
        let offset = FileOffset::current(&path).unwrap();
        fs::write(&path, "old\nnew\nnew\ncut of").unwrap();
        let mut written = WrittenLines::read(std::slice::from_ref(&offset));
        let found = ["new", "new", "new", "old", "cut of"].map(|line| written.take(&path, line));
        assert_eq!(found, [true, true, false, false, false]);
        assert!(
            !WrittenLines::read(std::slice::from_ref(&offset)).take(Path::new("/other"), "new"),
            "another file"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\nnew\nnew\n");
        // Another file replaces it: all of its lines are new.
        fs::write(path.with_extension("x"), "one\n").unwrap();
        fs::rename(path.with_extension("x"), &path).unwrap();
        assert!(WrittenLines::read(&[offset]).take(&path, "one"));
        fs::remove_file(path).unwrap();
        assert_eq!(FileOffset::current(Path::new("/nonexistent")), None);
    }
}
