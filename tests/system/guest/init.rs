//! Duties of the first process of a machine: mounts, kernel modules, power-off.

use std::{ffi::CString, fs, io, process::ExitCode, ptr};

use anyhow::{Context, Result, ensure};
use mailflow_test_support::guest::Line;

/// File systems as (type, mount point).
const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("bpf", "/sys/fs/bpf"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
];

/// Prepares the machine to run programs.
pub(crate) fn prepare() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place)?;
        mount(kind, place).with_context(|| format!("cannot mount {place}"))?;
    }
    let entries = fs::read_dir("/modules")?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut modules = entries?;
    modules.sort();
    for module in modules {
        load_module(&fs::read(&module)?).with_context(|| format!("module {}", module.display()))?;
    }
    Ok(())
}

fn mount(kind: &str, place: &str) -> Result<()> {
    let (kind, place) = (CString::new(kind)?, CString::new(place)?);
    // SAFETY: the strings live through the call; there is no data argument.
    let result = unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, ptr::null()) };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(())
}

fn load_module(module: &[u8]) -> Result<()> {
    // SAFETY: init_module(2) reads the module and a string of parameters, here empty.
    let result = unsafe { libc::syscall(libc::SYS_init_module, module.as_ptr(), module.len(), c"".as_ptr()) };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(())
}

/// Reports an early end of the run, and switches the machine off.
pub(crate) fn power_off(result: Result<()>) -> ExitCode {
    if let Err(error) = result {
        println!("{}", Line::Failed { check: "the guest".to_owned(), why: format!("{error:#}") });
    }
    // SAFETY: the call touches no memory; there is no disk with unwritten data.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    ExitCode::FAILURE
}
