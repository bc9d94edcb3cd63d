//! Limits of files: maximum size, and free space of the file system.

use std::{fmt, io, os::fd::AsFd};

use rustix::fs::{StatVfs, fstatvfs};

/// Returns true for an error of a disk that is full, read-only or broken. Such an error may be temporary,
/// unlike a wrong path.
pub fn is_disk_failure(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
        || error.raw_os_error() == Some(libc::EIO)
}

/// Maximum of a reserve in percent, in bytes.
pub const MAX_PERCENT_RESERVE_BYTES: u64 = 100_000_000;

/// Limits of a file, or of all files of a directory together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// Maximum size, in bytes.
    pub max_size: u64,
    /// Space of the file system that stays free.
    pub min_free: Reserve,
}

/// Space of a file system that stays free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Bytes.
    Bytes(u64),
    /// Percentage of its size, at most [`MAX_PERCENT_RESERVE_BYTES`], as 1 % of a large disk is more than
    /// necessary.
    Percent(u8),
}

impl FileLimits {
    /// No limits.
    pub const NONE: Self = Self { max_size: u64::MAX, min_free: Reserve::Bytes(0) };
}

impl Reserve {
    /// Returns an error if a write of `wanted` bytes to the file system of `file` would use the reserve.
    /// `setting` names the reserve in the configuration.
    ///
    /// # Errors
    /// The reserve would be used, or the file system cannot be queried.
    pub fn check(self, file: impl AsFd, wanted: u64, setting: &str) -> io::Result<()> {
        if self == Self::Bytes(0) {
            return Ok(());
        }
        let found = fstatvfs(file)?;
        // A file system without a size, such as procfs, has no reserve.
        if found.f_blocks == 0 {
            return Ok(());
        }
        self.check_in(&found, wanted).map_err(|(free, keep)| {
            let text = format!("No space left on device beyond the reserve: {free} bytes are free, and {setting} keeps {keep}");
            io::Error::new(io::ErrorKind::StorageFull, text)
        })
    }

    /// Checks a write against known numbers of the file system. An error has the free bytes and the reserved
    /// bytes.
    fn check_in(self, found: &StatVfs, wanted: u64) -> Result<(), (u64, u64)> {
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let keep = match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let size = u128::from(found.f_blocks) * u128::from(found.f_frsize);
                let part = size * u128::from(percent) / 100;
                u64::try_from(part).unwrap_or(u64::MAX).min(MAX_PERCENT_RESERVE_BYTES)
            }
        };
        if free >= keep.saturating_add(wanted) { Ok(()) } else { Err((free, keep)) }
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn disk(blocks: u64, free: u64) -> StatVfs {
        let mut found = fstatvfs(File::open("/").unwrap()).unwrap();
        (found.f_frsize, found.f_blocks, found.f_bavail, found.f_bfree) = (4_096, blocks, free, free);
        found
    }

    #[test]
    fn a_write_leaves_the_reserve_alone() {
        let kilobytes = |number: u64| Reserve::Bytes(number * 1_024);
        for (reserve, blocks, free, wanted, good) in [
            (kilobytes(40), 100, 10, 0, true),
            (kilobytes(40), 100, 10, 1, false),
            (kilobytes(41), 100, 10, 0, false),
            (Reserve::Percent(10), 100, 10, 0, true),
            (Reserve::Percent(10), 100, 10, 1, false),
            (Reserve::Percent(10), 100, 11, 4_096, true),
            (Reserve::Percent(100), 100, 99, 0, false),
            (Reserve::Percent(1), 1 << 40, 24_415, 0, true),
            (Reserve::Percent(1), 1 << 40, 24_414, 0, false),
            (Reserve::Percent(0), 100, 0, 0, true),
            (Reserve::Percent(50), u64::MAX, u64::MAX, 0, true),
        ] {
            let found = reserve.check_in(&disk(blocks, free), wanted);
            assert_eq!(found.is_ok(), good, "{reserve:?} of {free}/{blocks} for {wanted}");
        }
        let error = Reserve::Percent(10).check_in(&disk(100, 5), 0).unwrap_err();
        assert_eq!(error, (20_480, 40_960));
    }

    #[test]
    fn the_error_names_the_setting() {
        let file = File::open("/").unwrap();
        FileLimits::NONE.min_free.check(&file, u64::MAX, "state.min_free").unwrap();
        let error = Reserve::Bytes(u64::MAX).check(&file, 0, "state.min_free").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("state.min_free keeps 18446744073709551615"), "{error}");
    }
}
