//! The BPF file system.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// Conventional mount point.
const DEFAULT_MOUNT: &str = "/sys/fs/bpf";
/// `f_type` of a BPF file system (BPF_FS_MAGIC, linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Makes sure that `path` is in a BPF file system. Mounts one at the conventional place if `path` is there.
///
/// # Errors
/// There is none, and it cannot be mounted or has to be elsewhere.
pub(super) fn ensure_mounted(path: &Path) -> io::Result<()> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    if is_bpf(existing)? {
        return Ok(());
    }
    if !path.starts_with(DEFAULT_MOUNT) {
        return Err(io::Error::other(
            "it is in a file system of another kind; mount one with `mount -t bpf`",
        ));
    }
    let (kind, target) = (c"bpf", CString::new(DEFAULT_MOUNT)?);
    // SAFETY: all of them are strings that live through the call; there are no data.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            std::ptr::null(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    tracing::info!(path = DEFAULT_MOUNT, "mounted a BPF file system");
    Ok(())
}

/// Returns true if `path` is in a BPF file system.
///
/// # Errors
/// There is no such path, or the system does not say.
pub(super) fn is_bpf(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: reads a string and writes a struct, both alive through the call.
    if unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it was written.
    let found = unsafe { found.assume_init() };
    Ok(found.f_type == BPF_FS_MAGIC)
}

/// Returns true if the existing part of a path is in a BPF file system.
///
/// # Errors
/// The system does not say.
pub fn is_in_bpf_file_system(path: &Path) -> io::Result<bool> {
    is_bpf(path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path))
}

/// Returns true if the BPF file system at `path` is in this process's mount namespace alone, and so ends with it: `ip
/// netns exec` gives each command a mount namespace of its own. `None` where the mounts of the first process cannot be
/// read.
pub fn is_private_mount(path: &Path) -> Option<bool> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let device = fs::metadata(existing).ok()?.dev();
    let mounts = fs::read_to_string("/proc/1/mountinfo").ok()?;
    Some(!lists(&mounts, (libc::major(device), libc::minor(device))))
}

/// Returns true if a mount table has a file system of this device number (proc(5), /proc/PID/mountinfo).
fn lists(mounts: &str, (major, minor): (u32, u32)) -> bool {
    let device = format!("{major}:{minor}");
    mounts.lines().any(|line| line.split_whitespace().nth(2) == Some(&device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_device() {
        let mounts =
            "24 1 0:22 / /sys rw shared:7 - sysfs sysfs rw\n31 24 0:40 / /sys/fs/bpf rw - bpf bpf rw\n";
        assert!(lists(mounts, (0, 40)) && lists(mounts, (0, 22)));
        assert!(!lists(mounts, (0, 4)) && !lists(mounts, (0, 41)) && !lists("", (0, 40)));
    }

    #[test]
    fn a_mount_of_a_namespace_of_its_own_is_private() {
        let inside = || {
            let folder = std::env::temp_dir().join(format!("mailflow-mount-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            // A file system of the machine, as seen from here.
            assert_eq!(is_private_mount(&folder), Some(false));
            let target = CString::new(folder.as_os_str().as_bytes()).unwrap();
            // SAFETY: moves this thread alone into a mount namespace of its own, whose changes stay there; the strings
            // live through the calls.
            unsafe {
                assert_eq!(libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS), 0, "this test needs root");
                let flags = libc::MS_REC | libc::MS_PRIVATE;
                let nothing = std::ptr::null();
                assert_eq!(libc::mount(nothing, c"/".as_ptr(), nothing, flags, nothing.cast()), 0);
                let kind = c"bpf".as_ptr();
                assert_eq!(libc::mount(kind, target.as_ptr(), kind, 0, nothing.cast()), 0);
            }
            assert!(is_bpf(&folder).unwrap());
            assert_eq!(is_private_mount(&folder.join("mailflow")), Some(true));
            folder
        };
        let folder = std::thread::spawn(inside).join().unwrap();
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_missing_path_is_in_the_file_system_of_its_parent() {
        assert!(!is_in_bpf_file_system(Path::new("/proc/none/such")).unwrap());
    }
}
