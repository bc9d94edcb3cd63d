//! Batched operations on hash maps, which aya lacks: bpf(2) on the map's descriptor.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr,
};

use super::element::MapElement;

/// Commands of bpf(2) (linux/bpf.h).
#[derive(Clone, Copy)]
enum BpfCommand {
    LookupElement = 1,
    DeleteElement = 3,
    LookupAndDeleteElement = 21,
    LookupBatch = 24,
}

/// `struct { ... } batch` of `union bpf_attr`.
#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The element part of `union bpf_attr`.
#[repr(C)]
struct ElementAttributes {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Elements of one batch: few enough that evicted elements are still in a cache of the CPU.
const BATCH_ELEMENTS: usize = 1024;

/// Cursor over the elements of a hash map, which the kernel copies in batches. The buffers are reused from one
/// scan to the next.
pub(super) struct MapCursor<K, V> {
    keys: Vec<MaybeUninit<K>>,
    values: Vec<MaybeUninit<V>>,
    /// Position of the next batch in the map; `None` at the beginning.
    token: Option<u32>,
    /// Number of elements in the buffers.
    copied: usize,
    /// Number of those elements that were returned.
    returned: usize,
    /// True if the buffers hold the last batch.
    complete: bool,
}

impl<K: MapElement, V: MapElement> MapCursor<K, V> {
    pub(super) fn new() -> Self {
        let (keys, values) = (Vec::new(), Vec::new());
        let mut cursor = Self { keys, values, token: None, copied: 0, returned: 0, complete: true };
        cursor.resize(BATCH_ELEMENTS);
        cursor
    }

    fn resize(&mut self, count: usize) {
        self.keys.resize(count, MaybeUninit::uninit());
        self.values.resize(count, MaybeUninit::uninit());
    }

    /// Returns to the beginning of the map.
    pub(super) fn rewind(&mut self) {
        (self.token, self.copied, self.returned, self.complete) = (None, 0, 0, false);
    }

    /// Returns the next element of the map; `None` at the end.
    ///
    /// The kernel copies bucket by bucket, under the lock of each bucket. Elements that are inserted or
    /// deleted during the scan may be missed; none is returned twice.
    pub(super) fn next(&mut self, map: impl AsFd) -> io::Result<Option<(&K, &V)>> {
        while self.returned == self.copied {
            if self.complete {
                return Ok(None);
            }
            self.read_batch(map.as_fd())?;
        }
        let element = self.returned;
        self.returned += 1;
        // SAFETY: `element` is less than `copied`, the number of elements that the kernel wrote.
        Ok(Some(unsafe { (self.keys[element].assume_init_ref(), self.values[element].assume_init_ref()) }))
    }

    /// Copies the next batch.
    fn read_batch(&mut self, map: BorrowedFd<'_>) -> io::Result<()> {
        let mut next = 0_u32;
        let mut attributes = BatchAttributes {
            in_batch: self.token.as_ref().map_or(0, |token| ptr::from_ref(token) as u64),
            out_batch: &raw mut next as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: self.keys.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        let result = bpf_call(BpfCommand::LookupBatch, &mut attributes);
        let error = result.err().and_then(|error| error.raw_os_error());
        match error {
            None | Some(libc::ENOENT | libc::ENOSPC) => {}
            Some(libc::EINTR | libc::EAGAIN) => return Ok(()),
            Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
        }
        (self.copied, self.returned) = ((attributes.count as usize).min(self.keys.len()), 0);
        self.token = Some(next);
        match error {
            Some(libc::ENOENT) => self.complete = true,
            // The next bucket has more elements than the buffer; none was copied.
            Some(_) => self.resize(self.keys.len() * 2),
            None => {}
        }
        Ok(())
    }
}

/// Deletes an element of a hash map, and returns its last value; `None` if it is not there.
///
/// Linux before 5.14 has no such command for hash maps. There, a packet between the read and the delete is
/// lost to the flow.
pub(crate) fn remove<K: MapElement, V: MapElement>(map: impl AsFd, key: &K) -> io::Result<Option<V>> {
    /// ENOTSUPP, which is not an error number of user space. Yet the kernel returns it here.
    const ENOTSUPP: i32 = 524;
    let map = map.as_fd();
    match run_on_element(BpfCommand::LookupAndDeleteElement, map, key) {
        Err(error) if matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EOPNOTSUPP | libc::EINVAL)) => {
            let value = run_on_element(BpfCommand::LookupElement, map, key)?;
            if value.is_some() {
                run_on_element::<K, V>(BpfCommand::DeleteElement, map, key)?;
            }
            Ok(value)
        }
        other => other,
    }
}

/// Returns the value of a key of a hash map; `None` if it is not there.
pub(crate) fn lookup<K: MapElement, V: MapElement>(map: impl AsFd, key: &K) -> io::Result<Option<V>> {
    run_on_element(BpfCommand::LookupElement, map.as_fd(), key)
}

/// Deletes a key of a hash map, if it is there.
pub(super) fn delete<K: MapElement>(map: impl AsFd, key: &K) -> io::Result<()> {
    // The command takes no value: a word stands for one.
    run_on_element::<K, mailflow_common::Removal>(BpfCommand::DeleteElement, map.as_fd(), key).map(drop)
}

/// Runs a command on one element; `None` if it is not there.
fn run_on_element<K: MapElement, V: MapElement>(
    command: BpfCommand,
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::zeroed();
    let mut attributes = ElementAttributes {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: ptr::from_ref(key) as u64,
        // The kernel refuses attributes that a command does not know.
        value: if matches!(command, BpfCommand::DeleteElement) { 0 } else { value.as_mut_ptr() as u64 },
        flags: 0,
    };
    match bpf_call(command, &mut attributes) {
        // SAFETY: all bits are valid for a `MapElement`: zeros, or what the kernel wrote over them.
        Ok(()) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn bpf_call<A>(command: BpfCommand, attributes: &mut A) -> io::Result<()> {
    // SAFETY: the attributes are the command's, and every address in them points to memory of the
    // size the kernel reads or writes, alive through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attributes, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
