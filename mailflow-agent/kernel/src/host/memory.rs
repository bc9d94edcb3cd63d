//! Kernel memory of the maps: its limit, and how much each takes.

use std::fs;

use super::kernel_version::KernelVersion;

/// Lifts the limit to which maps were charged before Linux 5.11. If that fails, the error of the following
/// load shows it.
pub(crate) fn lift_memory_limit(version: KernelVersion) {
    if version < KernelVersion::NO_MEMLOCK {
        let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: reads one struct that lives through the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "RLIMIT_MEMLOCK stays as it is");
        }
    }
}

/// Returns RLIMIT_MEMLOCK in bytes, if maps are charged to it and it is a limit.
pub(super) fn memory_limit() -> Option<u64> {
    KernelVersion::running().ok().filter(|version| *version < KernelVersion::NO_MEMLOCK)?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one struct that lives through the call.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0;
    (is_known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Returns the kernel memory of a map by its descriptor, in bytes (bpf_map_show_fdinfo); 0 if the kernel does
/// not report it.
pub(crate) fn map_memory(descriptor: i32) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap_or_default();
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}
