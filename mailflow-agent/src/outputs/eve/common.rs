//! Formats shared by the EVE lines.

use std::fmt;

use jiff::{Timestamp, tz::Offset};
use serde::{Serialize, Serializer};

use mailflow_engine::{
    event::Alert,
    time::{Time, WallClockOffset},
};

/// Timestamp in EVE format: `2026-11-21T03:31:00.123456+0000`, always UTC, truncated to microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EveTimestamp(Timestamp);

impl EveTimestamp {
    /// Converts `time` to wall-clock time, limited to the years -9999 to 9999.
    pub fn of(time: Time, epoch: WallClockOffset) -> Self {
        let nanos = epoch.unix_nanos(time);
        let clamped = nanos.clamp(Timestamp::MIN.as_nanosecond(), Timestamp::MAX.as_nanosecond());
        Self(Timestamp::from_nanosecond(clamped).unwrap_or(Timestamp::MAX))
    }

    /// Returns the start of an alert, which was fixed in Unix time when it began to fire.
    pub fn of_start(alert: &Alert) -> Self {
        Self::of(Time::ZERO, WallClockOffset::from_unix_nanos(alert.starts_at_unix))
    }

    /// Returns the end of an alert, never before its start, even if the wall clock was set back.
    pub fn of_end(alert: &Alert, epoch: WallClockOffset) -> Option<Self> {
        alert.ends_at.map(|end| Self::of(end, epoch).max(Self::of_start(alert)))
    }

    /// Formats the timestamp as RFC 3339: `2026-11-21T03:31:00.123456Z`.
    pub fn rfc3339(self) -> String {
        self.to_string().replace("+0000", "Z")
    }
}

impl fmt::Display for EveTimestamp {
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

impl Serialize for EveTimestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// MAC address in EVE format: `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EveMac(pub [u8; 6]);

impl fmt::Display for EveMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for EveMac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_utc_with_microseconds() {
        let epoch = WallClockOffset::from_unix_nanos(1_795_231_860_000_000_000);
        let formatted = |nanos| EveTimestamp::of(Time::from_nanos(nanos), epoch).to_string();
        assert_eq!(formatted(123_456_789), "2026-11-21T03:31:00.123456+0000");
        assert_eq!(formatted(0), "2026-11-21T03:31:00.000000+0000");
        assert_eq!(formatted(86_400_000_000_000), "2026-11-22T03:31:00.000000+0000");
    }

    #[test]
    fn timestamps_before_1970_and_out_of_range_are_formatted() {
        let before = WallClockOffset::from_unix_nanos(-1_500_000_000);
        assert_eq!(EveTimestamp::of(Time::ZERO, before).to_string(), "1969-12-31T23:59:58.500000+0000");
        let far = WallClockOffset::from_unix_nanos(i128::from(i64::MAX) * 1_000);
        assert!(EveTimestamp::of(Time::ZERO, far).to_string().starts_with("9999-12-3"));
    }

    #[test]
    fn mac_addresses_keep_leading_zeros() {
        assert_eq!(EveMac([2, 0, 0, 0, 0xab, 1]).to_string(), "02:00:00:00:ab:01");
    }
}
