//! Time of the engine: a value passed in.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Time on the packet clock, in nanoseconds.
///
/// Live, the packet clock is the kernel's monotonic clock. In replay and backtest the capture or the log defines
/// it. Only [`WallClockOffset`] converts it to wall-clock time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time(u64);

impl Time {
    /// Start of the packet clock.
    pub const ZERO: Time = Time(0);

    /// Latest representable time.
    pub const END: Time = Time(u64::MAX);

    /// Returns the time `nanos` nanoseconds after the start of the clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the start of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the duration since `earlier`, or zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    /// Subtracts a duration; saturates at the start of the clock.
    fn sub(self, duration: Duration) -> Time {
        Time(self.0.saturating_sub(nanos(duration)))
    }
}

/// Offset of the packet clock's start from the Unix epoch, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallClockOffset(i128);

impl WallClockOffset {
    /// Returns the offset of a clock that started `nanos` nanoseconds after 1970-01-01 00:00 UTC.
    pub const fn from_unix_nanos(nanos: i128) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since 1970-01-01 00:00 UTC at `time`.
    pub fn unix_nanos(self, time: Time) -> i128 {
        self.0 + i128::from(time.0)
    }
}
