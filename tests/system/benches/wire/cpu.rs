//! CPUs: to run on one, and what was spent.

use std::{fs, io, mem::MaybeUninit};

use anyhow::{Context, Result};

/// Lets this thread run on one CPU only.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: zeros are an empty set; the calls read and write it only.
    let result = unsafe {
        let mut set: libc::cpu_set_t = MaybeUninit::zeroed().assume_init();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Nanoseconds of CPU time that this thread has used, with what the network stack did in its place.
pub(crate) fn thread() -> f64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the call writes one struct, of which zeros are a value too.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds of CPU time that a process has used, all its threads together.
pub(crate) fn process(id: u32) -> Result<f64> {
    let mut sum = 0.0;
    for thread in fs::read_dir(format!("/proc/{id}/task")).context("the process has ended")? {
        // A thread may have ended since; the agent's threads live as long as it does.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|spent| spent.parse::<f64>().ok()).unwrap_or_default();
    }
    Ok(sum)
}

/// The kernel's own thread for network work that is put off, of one CPU: what it has used.
pub(crate) fn put_off(cpu: usize) -> f64 {
    let name = format!("ksoftirqd/{cpu}");
    let mut processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.find(|entry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    });
    let id = found.and_then(|entry| entry.file_name().to_str()?.parse().ok());
    // In a container it may not be seen; then nothing is known of it.
    id.and_then(|id| process(id).ok()).unwrap_or_default()
}
