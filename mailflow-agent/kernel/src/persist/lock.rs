//! Holders of file locks.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Returns the process that holds a lock (flock) on `path`, if the kernel reports it (proc(5), /proc/locks).
pub fn lock_holder(path: &Path) -> Option<u32> {
    let inode = fs::metadata(path).ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 1234 00:1c:5678 0 EOF
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_holder = *fields.get(1)? == "FLOCK" && fields.get(5)?.rsplit(':').next()? == inode.to_string();
        is_holder.then(|| fields[4].parse().ok()).flatten()
    })
}
