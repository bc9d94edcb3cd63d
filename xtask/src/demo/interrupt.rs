//! Interrupts: the current step ends, and everything that was created is removed.

use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Result, bail};

static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// Installs handlers that record SIGINT, SIGTERM and SIGHUP.
pub(super) fn catch() {
    let handler = note as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

extern "C" fn note(signal: libc::c_int) {
    CAUGHT.store(signal, Ordering::Relaxed);
}

/// Returns the exit code of a caught signal, as shells define it.
pub(super) fn exit_code() -> Option<u8> {
    u8::try_from(CAUGHT.load(Ordering::Relaxed)).ok().filter(|signal| *signal != 0).map(|signal| 128 + signal)
}

/// Returns an error after a signal was caught.
pub(super) fn check() -> Result<()> {
    if exit_code().is_some() {
        bail!("interrupted");
    }
    Ok(())
}
