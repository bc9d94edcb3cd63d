//! The clock of the system. Everything else gets the time as a value.

use std::{
    io,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use mailflow_engine::time::{Time, WallClockOffset};

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one struct that lives through the call. The clocks used here always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Returns the time of the packet clock, which live is the monotonic clock of the kernel.
pub fn now() -> Time {
    Time::from_nanos(read(libc::CLOCK_MONOTONIC))
}

/// Returns the CPU time of this thread.
pub fn thread_cpu_time() -> Duration {
    Duration::from_nanos(read(libc::CLOCK_THREAD_CPUTIME_ID))
}

/// Returns the position of the packet clock on the wall clock. It stays the same until the wall clock is set,
/// so the times of a flow are the same in its record, in an alert and in an answer.
///
/// The kernel slews both clocks alike, so only a step moves them apart. Differences between readings come
/// from delays of this thread.
pub fn epoch() -> WallClockOffset {
    static LAST_EPOCH: Mutex<Option<i128>> = Mutex::new(None);
    let mut last = LAST_EPOCH.lock().unwrap_or_else(PoisonError::into_inner);
    let epoch = last.filter(|last| read_bounds().contains(last)).unwrap_or_else(|| {
        let narrowest =
            (0..EPOCH_READINGS).map(|_| read_bounds()).min_by_key(|bounds| bounds.end() - bounds.start());
        let bounds = narrowest.unwrap_or_else(read_bounds);
        i128::midpoint(*bounds.start(), *bounds.end())
    });
    *last = Some(epoch);
    WallClockOffset::from_unix_nanos(epoch)
}

/// Number of readings, of which the narrowest counts.
const EPOCH_READINGS: usize = 16;

/// Rounding of both clocks, in nanoseconds.
const ROUNDING_NANOS: i128 = 100;

/// Returns the bounds of the epoch by one reading.
fn read_bounds() -> RangeInclusive<i128> {
    let before = i128::from(read(libc::CLOCK_MONOTONIC));
    let wall = i128::from(read(libc::CLOCK_REALTIME));
    let after = i128::from(read(libc::CLOCK_MONOTONIC));
    wall - after - ROUNDING_NANOS..=wall - before + ROUNDING_NANOS
}

/// Returns nanoseconds since 1970.
pub fn unix_nanos() -> i128 {
    i128::from(read(libc::CLOCK_REALTIME))
}

/// Returns seconds since 1970.
pub fn unix_seconds() -> f64 {
    read(libc::CLOCK_REALTIME) as f64 / 1e9
}

/// Synchronisation of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockState {
    /// Synchronised, by NTP, PTP or similar.
    Synchronized,
    /// Not synchronised.
    Unsynchronized,
}

/// Returns the synchronisation of the wall clock (adjtimex(2)).
///
/// # Errors
/// The system refuses.
pub fn clock_state() -> io::Result<ClockState> {
    // SAFETY: all of its fields are numbers, for which zero is a value: nothing is to be changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: writes one struct that lives through the call.
    if unsafe { libc::adjtimex(&raw mut timex) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(if timex.status & libc::STA_UNSYNC == 0 {
        ClockState::Synchronized
    } else {
        ClockState::Unsynchronized
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_stable() {
        let first = epoch();
        assert!((0..100_000).all(|_| epoch() == first));
    }

    #[test]
    fn the_epoch_is_within_the_readings() {
        let epoch = epoch().unix_nanos(Time::ZERO);
        // Clocks that were set a millisecond away would be outside of any reading here.
        let readings: Vec<_> = (0..1_000).map(|_| read_bounds()).collect();
        let narrow = readings.iter().filter(|bounds| bounds.end() - bounds.start() < 1_000_000);
        let inside: Vec<bool> = narrow.map(|bounds| bounds.contains(&epoch)).collect();
        assert!(!inside.is_empty() && inside.iter().all(|inside| *inside));
    }

    #[test]
    fn the_kernel_reports_clock_synchronisation() {
        assert!(clock_state().is_ok());
    }
}
