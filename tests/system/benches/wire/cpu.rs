//! CPU affinity and CPU time.

use std::{fs, io, mem::MaybeUninit};

use anyhow::{Context, Result};

/// Pins this thread to one CPU.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: all zeros are an empty set; the calls only read and write the set.
    let result = unsafe {
        let mut set: libc::cpu_set_t = MaybeUninit::zeroed().assume_init();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the CPU nanoseconds of this thread, including the network stack's work in its context.
pub(crate) fn thread() -> f64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the call writes one struct, for which all zeros are a valid value.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Returns the CPU nanoseconds of a process, summed over its threads.
pub(crate) fn process(id: u32) -> Result<f64> {
    let mut sum = 0.0;
    for thread in fs::read_dir(format!("/proc/{id}/task")).context("the process has ended")? {
        // A thread may have ended; the agent's threads live as long as the agent.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|spent| spent.parse::<f64>().ok()).unwrap_or_default();
    }
    Ok(sum)
}

/// Returns the CPU nanoseconds of ksoftirqd, the kernel thread for deferred network work, of one CPU.
pub(crate) fn put_off(cpu: usize) -> f64 {
    let name = format!("ksoftirqd/{cpu}");
    let mut processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.find(|entry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    });
    let id = found.and_then(|entry| entry.file_name().to_str()?.parse().ok());
    // In a container the thread may be invisible; the result is zero then.
    id.and_then(|id| process(id).ok()).unwrap_or_default()
}
