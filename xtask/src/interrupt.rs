//! Interrupts: the current step ends, and everything that was created is removed.

use std::{
    sync::atomic::{AtomicI32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Longest time between two checks of a wait.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(200);

static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// Installs handlers that record SIGINT, SIGTERM and SIGHUP.
pub(crate) fn catch() {
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
pub(crate) fn exit_code() -> Option<u8> {
    u8::try_from(CAUGHT.load(Ordering::Relaxed)).ok().filter(|signal| *signal != 0).map(|signal| 128 + signal)
}

/// Returns an error after a signal was caught.
pub(crate) fn check() -> Result<()> {
    if exit_code().is_some() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps until `deadline`, or returns an error after a signal was caught.
pub(crate) fn sleep_until(deadline: Instant) -> Result<()> {
    loop {
        check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(CHECK_INTERVAL));
    }
}
