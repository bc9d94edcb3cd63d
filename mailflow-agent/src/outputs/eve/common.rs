//! Forms that Suricata's EVE lines share.

use std::fmt;

use jiff::{Timestamp, tz::Offset};
use serde::{Serialize, Serializer};

use mailflow_engine::{
    event::Alert,
    time::{Time, WallClockOffset},
};

/// A moment as EVE writes it: `2026-11-21T03:31:00.123456+0000`, always UTC, cut to microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Timestamp);

impl Moment {
    /// The wall time of `time`; moments outside the years -9999 to 9999 become the nearest end.
    pub fn of(time: Time, epoch: WallClockOffset) -> Self {
        let nanos = epoch.unix_nanos(time);
        let clamped = nanos.clamp(Timestamp::MIN.as_nanosecond(), Timestamp::MAX.as_nanosecond());
        Self(Timestamp::from_nanosecond(clamped).unwrap_or(Timestamp::MAX))
    }

    /// The start of an alert, fixed on the wall clock when it began.
    pub fn of_start(alert: &Alert) -> Self {
        Self::of(Time::ZERO, WallClockOffset::from_unix_nanos(alert.starts_at_unix))
    }

    /// The end of an alert: never before its start, also where the wall clock was set back meanwhile.
    pub fn of_end(alert: &Alert, epoch: WallClockOffset) -> Option<Self> {
        alert.ends_at.map(|end| Self::of(end, epoch).max(Self::of_start(alert)))
    }

    /// As RFC 3339 writes it: `2026-11-21T03:31:00.123456Z`.
    pub fn rfc3339(self) -> String {
        self.to_string().replace("+0000", "Z")
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Offset::UTC.to_datetime(self.0);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}+0000",
            at.year(),
            at.month(),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.subsec_nanosecond() / 1_000
        )
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A MAC address as EVE writes it: `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_utc_with_microseconds() {
        let epoch = WallClockOffset::from_unix_nanos(1_795_231_860_000_000_000);
        let written = |nanos| Moment::of(Time::from_nanos(nanos), epoch).to_string();
        assert_eq!(written(123_456_789), "2026-11-21T03:31:00.123456+0000");
        assert_eq!(written(0), "2026-11-21T03:31:00.000000+0000");
        assert_eq!(written(86_400_000_000_000), "2026-11-22T03:31:00.000000+0000");
    }

    #[test]
    fn moments_before_1970_and_out_of_range_are_written_too() {
        let before = WallClockOffset::from_unix_nanos(-1_500_000_000);
        assert_eq!(Moment::of(Time::ZERO, before).to_string(), "1969-12-31T23:59:58.500000+0000");
        let far = WallClockOffset::from_unix_nanos(i128::from(i64::MAX) * 1_000);
        assert!(Moment::of(Time::ZERO, far).to_string().starts_with("9999-12-3"));
    }

    #[test]
    fn macs_keep_their_zeros() {
        assert_eq!(Mac([2, 0, 0, 0, 0xab, 1]).to_string(), "02:00:00:00:ab:01");
    }
}
