//! Array maps of the kernel, mapped into memory.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr,
    sync::atomic::AtomicU64,
};

use aya::maps::MapData;

/// Elements of an array map as words. The program changes them at the same time.
pub(super) struct MmapArray {
    start: ptr::NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is this value's until it is dropped, and is only ever used by atomic operations.
unsafe impl Send for MmapArray {}

impl MmapArray {
    /// Maps all elements of an array map with `BPF_F_MMAPABLE`.
    pub(crate) fn new(array: &MapData, elements: u32, size: usize) -> io::Result<Self> {
        Self::map(elements as usize * size, libc::MAP_SHARED, array.fd().as_fd().as_raw_fd())
    }

    /// Makes private memory, for tests.
    #[cfg(test)]
    pub(crate) fn private(bytes: usize) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    fn map(bytes: usize, flags: i32, descriptor: i32) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping of its own, at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, descriptor, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = ptr::NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, words: bytes / size_of::<u64>() })
    }

    /// Returns the words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is of this many aligned words, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for MmapArray {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, to which no reference is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}
