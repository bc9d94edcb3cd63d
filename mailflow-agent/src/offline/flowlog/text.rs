//! Text values of logs, with the same syntax in JSON and in columns.

use std::{fmt, marker::PhantomData, net::IpAddr};

use jiff::Timestamp;
use mailflow_common::App;
use serde::{Deserialize, Deserializer, de};

use mailflow_engine::{flow::RecordReason, time::Time};

/// Largest number of characters of a wrong value in an error.
const MAX_SHOWN_CHARS: usize = 80;

/// Value with a text form.
pub(crate) trait TextValue: Sized {
    /// Description of a valid value, for errors.
    const EXPECTED: &'static str;

    /// Parses `text`; `None` if it is not valid.
    fn parse(text: &str) -> Option<Self>;

    /// Converts a number, for types that some logs write as a number.
    fn from_number(_: f64) -> Option<Self> {
        None
    }
}

/// Returns the error text for a wrong value.
pub(crate) fn describe_mismatch(value: impl fmt::Display, expected: &str) -> String {
    let value = value.to_string();
    let mut shown: String = value.chars().take(MAX_SHOWN_CHARS).collect();
    if shown.len() < value.len() {
        shown.push_str("...");
    }
    format!("{shown:?}: expected {expected}")
}

/// Value that is deserialised from a JSON string, or from a number if the type allows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed<T>(pub(crate) T);

impl<'de, T: TextValue> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: TextValue> de::Visitor<'_> for TextVisitor<T> {
    type Value = Parsed<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        T::parse(text).map(Parsed).ok_or_else(|| E::custom(describe_mismatch(text, T::EXPECTED)))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        T::from_number(number).map(Parsed).ok_or_else(|| E::custom(describe_mismatch(number, T::EXPECTED)))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        T::from_number(number as f64)
            .map(Parsed)
            .ok_or_else(|| E::custom(describe_mismatch(number, T::EXPECTED)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        T::from_number(number as f64)
            .map(Parsed)
            .ok_or_else(|| E::custom(describe_mismatch(number, T::EXPECTED)))
    }
}

impl TextValue for IpAddr {
    const EXPECTED: &'static str = "an IP address";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(|ip: IpAddr| ip.to_canonical())
    }
}

/// Protocol of a log line, as far as rules can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogProtocol {
    Tcp,
    Udp,
    Other,
}

impl TextValue for LogProtocol {
    const EXPECTED: &'static str = "a protocol such as TCP";

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "TCP" | "tcp" => Self::Tcp,
            "UDP" | "udp" => Self::Udp,
            "" => return None,
            _ => Self::Other,
        })
    }
}

impl TextValue for App {
    const EXPECTED: &'static str = "an application such as smtp, smtp+starttls, smtps, other or unseen";

    fn parse(text: &str) -> Option<Self> {
        App::ALL.into_iter().find(|app| app.name() == text)
    }
}

impl TextValue for RecordReason {
    const EXPECTED: &'static str = "closed, idle, active or shutdown";

    fn parse(text: &str) -> Option<Self> {
        [Self::Closed, Self::Idle, Self::Active, Self::Shutdown]
            .into_iter()
            .find(|reason| reason.name() == text)
    }
}

/// MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MacAddress(pub(crate) [u8; 6]);

impl TextValue for MacAddress {
    const EXPECTED: &'static str = "a MAC address such as 02:00:00:00:00:01";

    fn parse(text: &str) -> Option<Self> {
        let mut octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
        let mut mac = [0; 6];
        for octet in &mut mac {
            *octet = octets.next()?.ok()?;
        }
        octets.next().is_none().then_some(Self(mac))
    }
}

/// TCP flags of one direction, as hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpFlags(pub(crate) u8);

impl TextValue for TcpFlags {
    const EXPECTED: &'static str = "TCP flags as two hexadecimal digits";

    fn parse(text: &str) -> Option<Self> {
        u8::from_str_radix(text, 16).ok().map(Self)
    }
}

/// Timestamp: `2026-11-21T03:31:00.123456+0000` and other ISO 8601, or seconds since 1970, or milliseconds,
/// which are recognised by their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogTimestamp(pub(crate) Time);

impl TextValue for LogTimestamp {
    const EXPECTED: &'static str = "a time after 1970, as ISO 8601 or in seconds";

    fn parse(text: &str) -> Option<Self> {
        /// Digits of a number that may be milliseconds; with fewer digits it is seconds: see
        /// [`LogTimestamp::from_number`].
        const MILLISECOND_DIGITS: usize = 12;
        let (bytes, digits) = (text.as_bytes(), text.bytes().take_while(u8::is_ascii_digit).count());
        if digits >= MILLISECOND_DIGITS {
            return Self::from_number(text.parse().ok()?);
        }
        eve_timestamp(bytes).or_else(|| decimal_seconds(text)).or_else(|| iso_timestamp(text)).map(Self)
    }

    fn from_number(number: f64) -> Option<Self> {
        /// Limit between the units: in seconds this is the year 5138, in milliseconds 1973.
        const MAX_SECONDS: f64 = 1e11;
        let micros = if number < MAX_SECONDS { number * 1e6 } else { number * 1e3 };
        micros_to_time(micros).map(Self)
    }
}

/// Duration in seconds, stored in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogDuration(pub(crate) u64);

impl TextValue for LogDuration {
    const EXPECTED: &'static str = "a duration in seconds";

    fn parse(text: &str) -> Option<Self> {
        // Columns may also have `-0.000001` and `5.1e-05`.
        decimal_seconds(text).map(|time| Self(time.as_nanos())).or_else(|| {
            Self::from_number(text.parse().ok().filter(|_| text.contains(|c: char| c.is_ascii_digit()))?)
        })
    }

    fn from_number(number: f64) -> Option<Self> {
        /// Flows whose packets were captured out of order may end before they begin, by less than a second.
        const MAX_NEGATIVE: f64 = -1.0;
        let number = if MAX_NEGATIVE < number && number < 0.0 { 0.0 } else { number };
        micros_to_time(number * 1e6).map(|time| Self(time.as_nanos()))
    }
}

/// Converts microseconds to a time. A double has the precision of microseconds in this century, not of
/// nanoseconds.
fn micros_to_time(micros: f64) -> Option<Time> {
    let micros = micros.round();
    (0.0..1.8e16).contains(&micros).then(|| Time::from_nanos(micros as u64 * 1_000))
}

/// Parses `1591367999.305988` without loss.
fn decimal_seconds(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |nanos, digit| nanos * 10 + u64::from(digit - b'0'));
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos).map(Time::from_nanos)
}

/// Parses `2026-11-21T03:31:00.123456+0000`, the form of EVE in UTC. It is by far the most frequent one, and
/// this parser is faster than that of the calendar library.
fn eve_timestamp(text: &[u8]) -> Option<Time> {
    let form = b"dddd-dd-ddTdd:dd:dd.dddddd+0000";
    let matches_form =
        |(byte, form): (&u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { byte == form };
    if text.len() != form.len() || !text.iter().zip(form).all(matches_form) {
        return None;
    }
    let number = |from: usize, to: usize| {
        text[from..to].iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (hour, minute, second, micros) = (number(11, 13), number(14, 16), number(17, 19), number(20, 26));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years run from March to February, so that the leap day is the last day of a year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let micros = ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + micros;
    u64::try_from(micros).ok()?.checked_mul(1_000).map(Time::from_nanos)
}

fn iso_timestamp(text: &str) -> Option<Time> {
    let timestamp: Timestamp = text.parse().ok()?;
    u64::try_from(timestamp.as_nanosecond()).ok().map(Time::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> Option<u64> {
        LogTimestamp::parse(text).map(|moment| moment.0.as_nanos())
    }

    #[test]
    fn timestamps_are_parsed_in_every_form() {
        let expected = Some(1_795_231_860_123_456_000);
        for text in [
            "2026-11-21T03:31:00.123456+0000",
            "2026-11-21T04:31:00.123456+0100",
            "2026-11-21T03:31:00.123456Z",
            "1795231860.123456",
            "1795231860.123456000",
            "1795231860123.456",
            "2026-11-21T03:31:00.123456+00:00",
            "2026-11-21 04:31:00.123456+01:00",
        ] {
            assert_eq!(nanos(text), expected, "{text}");
        }
        for number in [1_795_231_860.123456, 1_795_231_860_123.456] {
            assert_eq!(LogTimestamp::from_number(number).map(|moment| moment.0.as_nanos()), expected);
        }
        for text in [
            "",
            "today",
            "2026-11-31T03:31:00.123456+0000",
            "1969-12-31T23:59:59.000000+0000",
            "1.",
            "-1.0",
            "1e9",
            "99999999999999.0",
        ] {
            assert_eq!(nanos(text), None, "{text}");
        }
        assert_eq!(LogTimestamp::from_number(-1.0).or(LogTimestamp::from_number(f64::NAN)), None);
    }

    #[test]
    fn timestamps_are_equal_to_those_of_the_library() {
        for year in [1970, 1972, 1999, 2000, 2001, 2024, 2025, 2026, 2100] {
            for (month, day) in [(1, 1), (2, 28), (2, 29), (3, 1), (4, 30), (4, 31), (8, 31), (12, 31)] {
                let text = format!("{year:04}-{month:02}-{day:02}T12:34:56.789012+0000");
                assert_eq!(eve_timestamp(text.as_bytes()), iso_timestamp(&text), "{text}");
            }
        }
    }

    #[test]
    fn other_values_are_parsed_or_rejected() {
        assert_eq!(LogDuration::parse("0.000001"), Some(LogDuration(1_000)));
        for (text, nanos) in
            [("5.1e-05", 51_000), ("5.1E-5", 51_000), ("1e1", 10_000_000_000), ("2.", 2_000_000_000)]
        {
            assert_eq!(LogDuration::parse(text), Some(LogDuration(nanos)), "{text}");
        }
        for text in ["-0.000001", "-0", "-1e-06", "-0.5"] {
            assert_eq!(LogDuration::parse(text), Some(LogDuration(0)), "{text}: packets out of order");
        }
        for text in ["", "-", "-1.5", "nan", "inf", "-inf", "1e400", "1,5", "1e", "infinity"] {
            assert_eq!(LogDuration::parse(text), None, "{text}");
        }
        assert_eq!(MacAddress::parse("02:00:00:00:AB:01"), Some(MacAddress([2, 0, 0, 0, 0xab, 1])));
        assert_eq!(
            [MacAddress::parse("02:00:00:00:ab"), MacAddress::parse("02:00:00:00:ab:01:02")],
            [None; 2]
        );
        assert_eq!((TcpFlags::parse("1b"), TcpFlags::parse("1bx")), (Some(TcpFlags(0x1b)), None));
        assert_eq!(IpAddr::parse("::ffff:10.0.0.1"), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(describe_mismatch("x".repeat(200), "less").len(), 2 + 83 + 15);
    }
}
