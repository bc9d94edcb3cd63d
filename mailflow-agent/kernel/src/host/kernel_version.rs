//! Version of the running kernel.

use std::fs;

use crate::error::KernelError;

/// Kernel version, major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion(pub u32, pub u32);

impl KernelVersion {
    /// Oldest supported kernel.
    pub const MINIMUM: Self = Self(5, 10);
    /// First kernel that charges maps to the control group instead of RLIMIT_MEMLOCK.
    pub const NO_MEMLOCK: Self = Self(5, 11);
    /// First kernel with BPF_CMPXCHG.
    pub(crate) const CMPXCHG: Self = if cfg!(any(target_arch = "x86_64", target_arch = "s390x")) {
        Self(5, 12)
    } else if cfg!(target_arch = "aarch64") {
        Self(5, 18)
    } else {
        Self(6, 0)
    };
    /// First kernel with XDP programs for frames in several buffers.
    pub(crate) const XDP_FRAGS: Self = Self(5, 18);
    /// First kernel with TCX.
    pub const TCX: Self = Self(6, 6);

    /// Returns the version of the running kernel.
    ///
    /// # Errors
    /// [`KernelError::TooOld`] below the oldest supported kernel, [`KernelError::Machine`] if it cannot be
    /// read.
    pub fn running() -> Result<Self, KernelError> {
        let path = "/proc/sys/kernel/osrelease";
        let release = fs::read_to_string(path)
            .map_err(|source| KernelError::Machine { what: path.to_owned(), source })?;
        match Self::parse(&release) {
            Some(version) if version >= Self::MINIMUM => Ok(version),
            _ => Err(KernelError::TooOld { release: release.trim().to_owned() }),
        }
    }

    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_from_all_kinds_of_names() {
        assert_eq!(KernelVersion::parse("6.18.44-fc-v445\n"), Some(KernelVersion(6, 18)));
        assert_eq!(KernelVersion::parse("5.10.0-32-amd64"), Some(KernelVersion(5, 10)));
        assert_eq!(KernelVersion::parse("7.0-rc1"), Some(KernelVersion(7, 0)));
        assert_eq!(KernelVersion::parse("linux"), None);
        assert!(KernelVersion(5, 4) < KernelVersion::MINIMUM && KernelVersion(10, 0) > KernelVersion::TCX);
    }
}
