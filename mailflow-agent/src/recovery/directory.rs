//! State directory: locked, checked, and the base of all state files.
//!
//! Files are opened relative to the descriptor of the directory, and never through a symbolic link. A user
//! who can write elsewhere cannot choose the files that the agent reads or overwrites.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, renameat, unlinkat};

use super::state_dir::StateError;

/// Mode of a directory that the agent creates.
const DIRECTORY_MODE: u32 = 0o750;
/// Bits of a mode that allow writes by others than the owner.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Mode of the files, which contain addresses.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Number of files that are set aside of each kind. Older ones are removed.
const MAX_ASIDE_FILES: usize = 3;
const ASIDE_SUFFIX: &str = ".aside-";

/// Locked directory.
#[derive(Debug)]
pub(crate) struct LockedDirectory {
    path: PathBuf,
    file: File,
}

impl LockedDirectory {
    /// Opens and locks a directory. Creates it if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let io_error = |source| StateError::Io { path: path.to_owned(), source };
        let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
        let file = made.and_then(|()| File::open(path)).map_err(io_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = mailflow_kernel::lock_holder(path);
                return Err(StateError::InUse { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(io_error(source)),
        }
        check_owner(path, &file)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Opens a directory without the lock, as a process sees it after a kill.
    #[cfg(test)]
    pub(crate) fn open_unlocked(path: &Path) -> Self {
        Self { path: path.to_owned(), file: File::open(path).unwrap() }
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the descriptor.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns true if the path still leads to this directory.
    pub(crate) fn is_in_place(&self) -> bool {
        let id = |found: fs::Metadata| (found.dev(), found.ino());
        let mine = self.file.metadata().map(id);
        // A removed directory can still be open.
        matches!((mine, fs::metadata(&self.path).map(id)), (Ok(mine), Ok(there)) if mine == there)
    }

    /// Reads a file; `None` if there is none.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut file = match self.open_file(name, OFlags::RDONLY) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Opens a file for appending. Creates it if it is missing.
    pub(crate) fn append(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
    }

    /// Creates a new file. Removes a file or symbolic link of that name first.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        self.open_file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
    }

    /// Renames a file, and replaces another one of that name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.file, from, &self.file, to)?)
    }

    /// Removes a file, if there is one.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.file, name, AtFlags::empty()).map_err(io::Error::from) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Returns the sorted names of the entries that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.file)? {
            let entry = entry?;
            names.extend(
                entry.file_name().to_str().ok().filter(|name| name.starts_with(prefix)).map(str::to_owned),
            );
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Renames a file to a name that begins with `label`, and returns the name. Keeps the newest few of each
    /// label.
    pub(crate) fn set_aside(&self, name: &str, label: &str, unix_seconds: u64) -> io::Result<String> {
        let prefix = format!("{label}{ASIDE_SUFFIX}");
        let mut aside = format!("{prefix}{unix_seconds}");
        let mut existing = self.names(&prefix)?;
        // Two files of one second keep their order.
        while existing.contains(&aside) {
            aside.push('+');
        }
        self.rename(name, &aside)?;
        let surplus = (existing.len() + 1).saturating_sub(MAX_ASIDE_FILES);
        existing.drain(..surplus).try_for_each(|old| self.remove(&old))?;
        Ok(aside)
    }

    /// Sets a copy of a file aside. The file itself stays.
    pub(crate) fn copy_aside(&self, bytes: &[u8], label: &str, unix_seconds: u64) -> io::Result<String> {
        let copy = format!("{label}.copy");
        io::Write::write_all(&mut self.create(&copy)?, bytes).inspect_err(|_| _ = self.remove(&copy))?;
        self.set_aside(&copy, label, unix_seconds)
    }

    /// Opens a regular file, not through a symbolic link.
    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // Opening a FIFO would block.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = openat(&self.file, name, flags, FILE_MODE).map_err(io::Error::from);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => io::Error::new(error.kind(), format!("{name} is a symbolic link")),
            _ => error,
        })?;
        let found = fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::Error::other(format!("{name} is no regular file")));
        }
        if found.st_nlink > 1 {
            return Err(io::Error::other(format!("{name} has another name elsewhere (a hard link)")));
        }
        Ok(File::from(file))
    }
}

/// Returns an error if another user can write to the directory: that user could replace the state of the
/// agent.
fn check_owner(path: &Path, file: &File) -> Result<(), StateError> {
    let io_error = |source| StateError::Io { path: path.to_owned(), source };
    let found = file.metadata().map_err(io_error)?;
    let (owner, agent_user) = (found.uid(), rustix::process::geteuid().as_raw());
    if owner != agent_user && owner != 0 {
        return Err(StateError::ForeignOwner { path: path.to_owned(), owner, agent_user });
    }
    let mode = found.mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    let narrower = fs::Permissions::from_mode(mode & !WRITABLE_BY_OTHERS);
    // A directory that many users may write to, such as /tmp, keeps its mode.
    if owner != agent_user || mode & 0o1000 != 0 || file.set_permissions(narrower).is_err() {
        return Err(StateError::WritableByOthers { path: path.to_owned(), mode });
    }
    tracing::warn!(
        directory = %path.display(),
        mode = format!("{mode:o}"),
        "state directory was writable by other users; its mode is changed"
    );
    Ok(())
}
