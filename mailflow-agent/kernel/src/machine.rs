//! What the machine is: kernel version, capabilities, memory limit.

use std::fs;

use super::error::KernelError;

/// A kernel version, major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion(pub u32, pub u32);

impl KernelVersion {
    /// Oldest kernel the program loads on.
    pub const FLOOR: Self = Self(5, 10);
    /// Charges maps to the control group rather than to RLIMIT_MEMLOCK.
    pub const NO_MEMLOCK: Self = Self(5, 11);
    /// Its atomic operations tell what was there (BPF_CMPXCHG).
    /// On arm64 compiled since 5.18, elsewhere since 6.0.
    pub(super) const EXCHANGE: Self = if cfg!(any(target_arch = "x86_64", target_arch = "s390x")) {
        Self(5, 12)
    } else if cfg!(target_arch = "aarch64") {
        Self(5, 18)
    } else {
        Self(6, 0)
    };
    /// Takes XDP programs for frames in several buffers.
    pub(super) const XDP_FRAGS: Self = Self(5, 18);
    /// Has TCX.
    pub const TCX: Self = Self(6, 6);

    /// The running kernel's.
    ///
    /// # Errors
    /// [`KernelError::TooOld`] below the floor, [`KernelError::Machine`] when it cannot be read.
    pub fn running() -> Result<Self, KernelError> {
        let path = "/proc/sys/kernel/osrelease";
        let release = fs::read_to_string(path)
            .map_err(|source| KernelError::Machine { what: path.to_owned(), source })?;
        match Self::parse(&release) {
            Some(version) if version >= Self::FLOOR => Ok(version),
            _ => Err(KernelError::TooOld { release: release.trim().to_owned() }),
        }
    }

    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// Capabilities that loading and attaching need, with their bit (linux/capability.h).
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
/// Stands for all three.
const CAP_SYS_ADMIN: u32 = 21;

/// Checks for the capabilities that loading needs, so that a refusal has a name.
///
/// # Errors
/// [`KernelError::Capabilities`] names what is missing.
pub(super) fn check_capabilities() -> Result<(), KernelError> {
    let path = "/proc/thread-self/status";
    let status =
        fs::read_to_string(path).map_err(|source| KernelError::Machine { what: path.to_owned(), source })?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    match missing(effective) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(KernelError::Capabilities { missing: missing.join(", ") }),
    }
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    NEEDED
        .into_iter()
        .filter(|(name, bit)| !(has(*bit) || has(CAP_SYS_ADMIN) && *name != "CAP_NET_ADMIN"))
        .map(|(name, _)| name)
        .collect()
}

/// Lifts the limit that maps were charged to before Linux 5.11. That it may not be lifted shows in
/// the error of the load that follows.
pub(super) fn lift_memory_limit(version: KernelVersion) {
    if version < KernelVersion::NO_MEMLOCK {
        let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: reads one struct that lives through the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "RLIMIT_MEMLOCK stays as it is");
        }
    }
}

/// RLIMIT_MEMLOCK in bytes, where maps are charged to it and it is a limit.
pub(super) fn memory_limit() -> Option<u64> {
    KernelVersion::running().ok().filter(|version| *version < KernelVersion::NO_MEMLOCK)?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one struct that lives through the call.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Bytes of kernel memory behind the map that a descriptor of ours names (bpf_map_show_fdinfo); 0
/// where the kernel does not say.
pub(super) fn map_memory(descriptor: i32) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap_or_default();
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_all_kinds_of_names() {
        assert_eq!(KernelVersion::parse("6.18.44-fc-v445\n"), Some(KernelVersion(6, 18)));
        assert_eq!(KernelVersion::parse("5.10.0-32-amd64"), Some(KernelVersion(5, 10)));
        assert_eq!(KernelVersion::parse("7.0-rc1"), Some(KernelVersion(7, 0)));
        assert_eq!(KernelVersion::parse("linux"), None);
        assert!(KernelVersion(5, 4) < KernelVersion::FLOOR && KernelVersion(10, 0) > KernelVersion::TCX);
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(missing(1 << 12 | 1 << 38), ["CAP_BPF"]);
        assert_eq!(missing(1 << CAP_SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert!(missing(1 << 12 | 1 << 38 | 1 << 39).is_empty());
    }
}
