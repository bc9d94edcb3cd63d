//! The only reader of clocks. Everything else is handed the time.

use crate::engine::time::{Epoch, Time};

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one struct that lives through the call. Both clocks used here always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Now on the packet clock, which live is the kernel's monotonic clock.
pub fn now() -> Time {
    Time::from_nanos(read(libc::CLOCK_MONOTONIC))
}

/// Where the packet clock's beginning lies on the wall clock at this moment.
pub fn epoch() -> Epoch {
    let monotonic = read(libc::CLOCK_MONOTONIC);
    Epoch::from_unix_nanos(i128::from(read(libc::CLOCK_REALTIME)) - i128::from(monotonic))
}

/// Nanoseconds since 1970.
pub fn unix_nanos() -> i128 {
    i128::from(read(libc::CLOCK_REALTIME))
}

/// Seconds since 1970.
pub fn unix_seconds() -> f64 {
    read(libc::CLOCK_REALTIME) as f64 / 1e9
}
