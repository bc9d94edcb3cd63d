//! Commands of bpf(2) for the benchmark: small programs and maps, and timed runs.

use std::{
    io::{Error, Result},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Hook that a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// XDP.
    Xdp,
    /// TC.
    Tc,
}

impl Kind {
    /// Returns the verdict that passes a packet on: XDP_PASS or TC_ACT_UNSPEC.
    pub(crate) fn pass(self) -> i32 {
        match self {
            Kind::Xdp => 2,
            Kind::Tc => -1,
        }
    }
}

/// Loads a program from its instructions.
pub(crate) fn load(kind: Kind, instructions: &[u64]) -> Result<OwnedFd> {
    const PROG_LOAD: i32 = 5;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    let (kind, attach_type) = match kind {
        // A tail call needs equal attach types; BPF_XDP is 37.
        Kind::Xdp => (6, 37),
        Kind::Tc => (3, 0),
    };
    let mut load = Load {
        kind,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach_type,
    };
    descriptor(bpf(PROG_LOAD, &mut load)?)
}

/// Creates a map with one element: an array of words, or an array of programs for tail calls.
pub(crate) fn map(kind: MapKind) -> Result<OwnedFd> {
    const MAP_CREATE: i32 = 0;
    let (kind, value) = match kind {
        MapKind::Word => (2, 8),
        MapKind::Program => (3, 4),
    };
    descriptor(bpf(MAP_CREATE, &mut [kind, 4, value, 1_u32, 0])?)
}

/// Element type of a map.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MapKind {
    /// Word of eight bytes.
    Word,
    /// Program.
    Program,
}

/// Sets the only element of a map.
pub(crate) fn set<V: Copy>(map: &OwnedFd, value: V) -> Result<()> {
    const MAP_UPDATE: i32 = 2;
    #[repr(C)]
    struct Update {
        map: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let (key, map) = (0_u32, map.as_raw_fd() as u32);
    let mut update = Update { map, key: &raw const key as u64, value: &raw const value as u64, flags: 0 };
    bpf(MAP_UPDATE, &mut update).map(drop)
}

/// Runs a program `repeat` times on `frame`, and returns the CPU nanoseconds of this thread per run.
pub(crate) fn run(program: BorrowedFd<'_>, kind: Kind, frame: &[u8], repeat: u32) -> Result<f64> {
    const PROG_TEST_RUN: i32 = 10;
    #[repr(C)]
    struct Run {
        program: u32,
        verdict: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context: [u32; 2],
        contexts: [u64; 2],
        // Flags, CPU, batch size, and the rest, which must be zero.
        flags: [u32; 4],
    }
    let mut run = Run {
        program: program.as_raw_fd() as u32,
        verdict: 0,
        size_in: frame.len() as u32,
        size_out: 0,
        data_in: frame.as_ptr() as u64,
        data_out: 0,
        repeat,
        duration: 0,
        context: [0; 2],
        contexts: [0; 2],
        flags: [0; 4],
    };
    let began = thread_time();
    bpf(PROG_TEST_RUN, &mut run)?;
    let took = thread_time() - began;
    if run.verdict as i32 != kind.pass() {
        return Err(Error::other(format!("the program's verdict was {}", run.verdict as i32)));
    }
    Ok(took / f64::from(repeat))
}

/// Returns this thread's CPU time in nanoseconds.
pub(crate) fn thread_time() -> f64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the call writes one struct, for which all zeros are a valid value.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn bpf<A>(command: i32, attributes: &mut A) -> Result<i32> {
    // SAFETY: the attributes belong to the command; what they point to lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<A>()) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result as i32) }
}

fn descriptor(fd: i32) -> Result<OwnedFd> {
    // SAFETY: the kernel has just created the descriptor, and no other owner exists.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
